"""Search a setting by cross-validation with scikit-learn, keep the best model as a run.

python examples/search_settings.py FOLDER
"""

import sys
from pathlib import Path

from sklearn.model_selection import GridSearchCV

import hemalens
from hemalens.data.synthetic import synthetic_set


def main(folder: Path) -> None:
    """Write the run of the better of two learning rates into a folder."""
    cells = synthetic_set({"eosinophil": 24, "lymphocyte": 24, "platelet": 24}, size=32, contamination=False)
    names = [cells.classes[label] for label in cells.labels]
    fixed = ("image_size=16", "epochs=2", "per_class=24", "batch_size=16")
    grid = {"settings": [(*fixed, "lr=0.001"), (*fixed, "lr=0.05")]}
    search = GridSearchCV(hemalens.Classifier(recipe="demo"), grid, cv=2).fit(cells.images, names)
    run = search.best_estimator_.save(folder / "run")
    print(f"{search.best_params_['settings'][-1]}: accuracy {search.best_score_:.2f} in two folds; kept in {run}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
