"""CSS of the HTML that `view` makes, in the colours of the page's light or dark theme."""

STYLE = """
.answer-view { color: var(--body-text-color);
  --soft: color-mix(in srgb, var(--body-text-color) 72%, var(--body-background-fill)); }
.answer-view h2 { margin: 1.25rem 0 .4rem; font-size: 1rem; font-weight: 600; color: var(--body-text-color); }
.answer-view .columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr));
  gap: 0 1.25rem; }
.answer-view section { min-width: 0; }
.answer-view .note { margin: .3rem 0; font-size: .875rem; color: var(--soft); }
.answer-view .sentence { font-size: 1.05rem; line-height: 2; overflow-wrap: anywhere; }
.answer-view mark { padding: .1rem .3rem; border-radius: 4px; color: inherit;
  border-bottom: 2px solid var(--link-text-color);
  background: color-mix(in srgb, var(--link-text-color) 16%, transparent); }
.answer-view mark small { font-size: .75rem; font-weight: 600; }
.answer-view .scrolling { margin: .5rem 0; overflow-x: auto; }
.answer-view table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.answer-view th, .answer-view td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--border-color-primary);
  text-align: left; font-weight: 400; }
.answer-view td { white-space: nowrap; }
.answer-view thead th { color: var(--soft); }
.answer-view .bar { display: inline-block; width: 5rem; height: .6rem; margin-right: .6rem; border-radius: 3px;
  background: linear-gradient(to right, var(--link-text-color) var(--share),
    var(--border-color-primary) var(--share)); }
.answer-view .images { display: flex; flex-wrap: wrap; gap: .75rem; align-items: flex-end; }
.answer-view .post-image { display: block; width: 20rem; max-width: 100%; height: auto; border-radius: 4px; }
.answer-view .images figure { margin: 0; text-align: center; }
.answer-view .images img { border-radius: 4px; }
.answer-view figcaption { font-size: .8rem; color: var(--soft); }
.answer-view rect.halo, .answer-view rect.box { fill: none; vector-effect: non-scaling-stroke; }
.answer-view rect.halo { stroke: #fff; stroke-width: 4px; }
.answer-view rect.box { stroke: #111827; stroke-width: 2px; }
.answer-view rect.badge { fill: #111827; }
.answer-view text.number { fill: #fff; font-weight: 700; text-anchor: middle; }
.answer-view .heat th, .answer-view .heat td { padding: .2rem .6rem; border: 0; }
.answer-view .heat td { min-width: 3.5rem; text-align: center;
  background: color-mix(in srgb, var(--link-text-color) calc(var(--heat) * .45), transparent); }
.answer-view .heat thead th { text-align: center; }
button[role="tab"].selected { color: var(--link-text-color) !important; }
/* Gradio's second upload button has a control that the keyboard cannot reach; clearing brings the first one back. */
#posts .icon-button[aria-haspopup] { display: none; }
input[role="combobox"] { padding-right: 1.75rem !important; text-overflow: ellipsis; }
.problem { padding: .7rem 1rem; border-left: 4px solid var(--error-border-color); border-radius: 4px;
  background: var(--error-background-fill); color: var(--error-text-color); overflow-wrap: anywhere; }
"""
