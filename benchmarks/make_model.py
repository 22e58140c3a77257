"""The embedded model: `robust` trained on the cleaned challenge file, scored, exported, and described beside itself.

Writes ``embedded.onnx``, ``embedded.json``, ``parity.json`` and ``MODEL_CARD.md`` into the package. The seed is fixed
before anything is scored; the validation file chooses nothing and is read once, at the end. Another machine's kernels
round otherwise, so its model has other weights and the same quality.

    HEMALENS_DATA=... python benchmarks/make_model.py
    HEMALENS_DATA=... python benchmarks/make_model.py --run RUN   # take a finished run of the recipe
    python benchmarks/make_model.py --bind   # let a model of before and its sidecar name each other; nothing is trained
"""

import argparse
import re
import shutil
from pathlib import Path

from conditions import BUILD, challenge, real_data
from hemalens.core.artifacts import read_json, write_atomically, write_json
from hemalens.deployment.export import bind, export
from hemalens.evaluation.evaluate import evaluate
from hemalens.evaluation.explain import explain
from hemalens.evaluation.report import report
from hemalens.training.train import train
from prepared import prepare

PACKAGE = Path(__file__).parents[1] / "src" / "hemalens" / "pretrained"
RECIPE, SEED = "robust", 0
LARGEST = 6_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run of the recipe on the same split, in place of training")
    parser.add_argument("--bind", action="store_true", help="only bind the model in the package to its sidecar")
    given = parser.parse_args()
    if given.bind:
        bind_packaged()
        return
    other = real_data() / "lmu" / "lmu-000.tar"
    folder = BUILD / "model"
    cleaned, splits = prepare(challenge(), folder)
    run = given.run or folder / "train"
    if given.run is None:
        train(cleaned, run, splits=splits, recipe=RECIPE, settings=(f"seed={SEED}",), resume=True, overwrite=True)
    evaluate(run, challenge(validation=True), run / "evaluation", corruptions=True, overwrite=True)
    explain(run, challenge(validation=True), run / "explain", overwrite=True)
    elsewhere = [run / "elsewhere" / name for name in ("as-they-are", "adapted")]
    for there in elsewhere:
        evaluate(run, other, there, adapt=there.name == "adapted", overwrite=True)
    made = folder / "embedded.onnx"
    parity = export(run, made, source=cleaned, overwrite=True)
    size = made.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{made}: {size} bytes are more than the {LARGEST} that the package may carry")
    report([run], folder / "report", elsewhere=elsewhere, overwrite=True)
    PACKAGE.mkdir(exist_ok=True)
    for name in ("embedded.onnx", "embedded.json", "parity.json"):
        shutil.copyfile(folder / name, PACKAGE / name)
    card = (folder / "report" / "model_card.md").read_text(encoding="utf-8")
    # The commands of this machine, with its paths, say less than the one that makes the model anywhere.
    card = re.sub(r"```\n.*?\n```\n\n", "", card, flags=re.DOTALL)
    card = re.sub(r"\A# Model card: .*", "# Model card: the embedded model", card)
    (PACKAGE / "MODEL_CARD.md").write_text(card + "\nMade by `make model`.\n", encoding="utf-8")
    scores = read_json(run / "evaluation" / "evaluation.json")
    print({"bytes": size, "labels_equal": parity["labels_equal_share"], "accuracy": scores["accuracy"]["value"]})


def bind_packaged() -> None:
    model, beside, parity = (PACKAGE / name for name in ("embedded.onnx", "embedded.json", "parity.json"))
    data, sidecar = bind(model.read_bytes(), read_json(beside))
    write_atomically(model, lambda file: file.write(data))
    write_json(beside, sidecar)
    write_json(parity, read_json(parity) | {"onnx_sha256": sidecar["onnx_sha256"]})


if __name__ == "__main__":
    main()
