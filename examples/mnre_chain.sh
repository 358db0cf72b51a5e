#!/usr/bin/env bash
# Run all steps on a data set in the MNRE layout, from raw images: check, crops (two detectors), train, evaluate, predict, report.
#   examples/mnre_chain.sh DATA OUTPUT [training settings, such as --training.epochs 30]
# DATA is copied first, because crops are written next to the images. No weights are downloaded: the text encoder is `tiny`,
# the backbone is a ResNet-18 without weights, and the detector is a small Grounding DINO with random weights. The scores are
# therefore meaningless, but the steps are those of a real run.
set -euo pipefail
data=$1 output=$2
shift 2
mkdir "$output"
small=(--data.root "$output/data" --model.text tiny --model.vision resnet18 --model.vision_weights none)
step() { printf '\n== %s\n' "$*"; }

step "i2srm data check: the original files"
i2srm data check "$data"

cp -r "$data" "$output/data"
chmod -R u+w "$output/data"
rm "$output"/data/txt/mre_*_dict.pth

step "i2srm data crops: centre"
i2srm data crops mnre "${small[@]}" --grounding.detector centre

step "i2srm data crops: Grounding DINO, tiny and random"
python "$(dirname "$0")/tiny_grounding_dino.py" "$output/detector"
i2srm data crops mnre "${small[@]}" --grounding.detector grounding-dino --grounding.weights "$output/detector" \
  --grounding.threshold 0 --grounding.overwrite true

step "i2srm train"
i2srm train mnre "${small[@]}" --output "$output/run" "$@" 2> "$output/train.log"

step "i2srm evaluate"
for split in train valid test; do i2srm evaluate "$output/run" --split "$split" 2> /dev/null; done

step "i2srm predict"
python - "$output" <<'PYTHON'
import ast, json, pathlib, sys
output = pathlib.Path(sys.argv[1])
rows = [ast.literal_eval(line) for line in (output / "data/txt/ours_train.txt").read_text().splitlines()]
posts = [
    {
        "id": row["relation"],
        "text": " ".join(row["token"]),
        "image": str((output / "data/img_org/train" / row["img_id"]).resolve()),
        "head": " ".join(row["token"][slice(*row["h"]["pos"])]),
        "tail": " ".join(row["token"][slice(*row["t"]["pos"])]),
    }
    for row in rows
]
(output / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
PYTHON
i2srm predict "$output/run" --input "$output/posts.jsonl" --output "$output/predictions.jsonl" \
  --ground --grounding.detector grounding-dino --grounding.weights "$output/detector" --grounding.threshold 0 2> /dev/null
cat "$output/predictions.jsonl"

step "i2srm report"
i2srm report "$output/run" 2> /dev/null
