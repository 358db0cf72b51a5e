"""CSS of the report: one column, the reader's light or dark theme, no external resources."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: light-dark(#fcfcfb, #15181d); --panel: light-dark(#f2f3f4, #1e2229);
  --ink: light-dark(#22262d, #dce0e6); --soft: light-dark(#5d6470, #9aa2ae); --line: light-dark(#dcdfe3, #343a44);
  --accent: light-dark(#3f7fd6, #5b94e0); --link: light-dark(#2660b5, #7fb0ee);
  --right: light-dark(#2c7a4b, #6cc08b); --wrong: light-dark(#b3382c, #ee8377);
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 .5rem; padding-top: .9rem; border-top: 1px solid var(--line); font-size: 1.2rem; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: .75rem 0 1.5rem; font-size: .9rem; }
.note, .key { color: var(--soft); font-size: .875rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: 1rem 0; }
summary { cursor: pointer; color: var(--soft); }
pre { margin: .5rem 0; padding: .9rem 1rem; overflow-x: auto; background: var(--panel); border-radius: 6px;
  font-size: .8rem; line-height: 1.45; }
.scrolling { margin: .9rem 0; overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); vertical-align: bottom; }
th:first-child { padding-left: 0; text-align: left; }
tbody th { color: var(--ink); font-weight: 400; white-space: normal; }
.heat tbody th { white-space: nowrap; }
.heat { font-size: .8rem; }
.heat td { min-width: 2.5rem; padding: .25rem .3rem; border: 1px solid var(--page); text-align: center;
  background: color-mix(in srgb, var(--accent) calc(var(--heat) * .4), var(--panel)); }
.heat th { border: 0; }
.heat tbody th { padding-right: .7rem; }
.turned, .level { padding: .3rem; text-align: center; }
.turned span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 1rem; }
.charts img { display: block; width: 100%; max-width: 24rem; height: auto; }
.sentences { margin: .9rem 0; padding-left: 2rem; font-size: .9rem; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1rem; }
figure { display: flex; flex-direction: column; gap: .6rem; margin: 0; padding: 1rem; background: var(--panel);
  border-radius: 6px; overflow-wrap: anywhere; }
.images { display: flex; flex-wrap: wrap; align-items: flex-start; gap: .5rem; }
.images img { max-width: 100%; height: auto; border-radius: 3px; }
.crops { display: flex; flex-direction: column; gap: .4rem; }
.answer { display: flex; gap: .6rem; align-items: baseline; }
.key { flex: none; width: 4.2rem; }
mark { padding: .05rem .2rem; border-radius: 3px; color: inherit; border-bottom: 2px solid var(--soft);
  background: color-mix(in srgb, var(--soft) 14%, transparent); }
mark small { font-size: .7rem; }
mark.right { border-color: var(--right); background: color-mix(in srgb, var(--right) 14%, transparent); }
mark.wrong { border-color: var(--wrong); background: color-mix(in srgb, var(--wrong) 14%, transparent); }
span.right { color: var(--right); }
span.wrong { color: var(--wrong); }
"""
