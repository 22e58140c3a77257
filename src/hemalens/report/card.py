"""From a run's facts to its model card: the items that CLAIM and FUTURE-AI ask for, answered or named as missing.

CLAIM is the Checklist for Artificial Intelligence in Medical Imaging (Tejani et al. 2024), FUTURE-AI the guideline for
trustworthy AI in healthcare (Lekadir et al. 2025). Needs neither torch nor anything of training.
"""

from hemalens.core.text import ABSENT, duration, number, percent, spelled, thousands
from hemalens.report.document.blocks import Block, Bullets, Code, Document, Facts, Heading, Section, paragraph, strong
from hemalens.report.inputs import RunInputs
from hemalens.report.sections.discussion import limits
from hemalens.report.sections.elsewhere import elsewhere_scores, elsewhere_tables
from hemalens.report.sections.method import method_facts, splits_table
from hemalens.report.sections.mistakes import map_verdict
from hemalens.report.sections.problem import class_counts
from hemalens.report.sections.reproduction import Reproduction
from hemalens.report.sections.results import ResultsFacts, classes_table, scores_table
from hemalens.report.sections.trust import mean_corruption_error

__all__ = ["model_card"]


def model_card(run: RunInputs, facts: ResultsFacts | None, reproduction: Reproduction) -> Document:
    """Return the model card of a run; ``facts`` are its evaluation's, ``reproduction`` its provenance's."""
    made = f"{run.model.model}, {thousands(run.model.parameters)} parameters, made with hemalens "
    return Document(
        f"Model card: {run.name}",
        (paragraph(f"{made}{run.provenance.get('version', ABSENT)}."),),
        (
            Section("use", "Intended use", tuple(_use(run))),
            Section("data", "Data", tuple(_data(run))),
            Section("training", "Training", tuple(_training(run))),
            Section("scores", "Scores", tuple(_scores(run, facts))),
            Section("trust", "Fairness, robustness and explainability", (_items(run, facts),)),
            Section("limits", "Limits", (Bullets(tuple(limits(run, facts))),)),
            Section("provenance", "Provenance", tuple(_provenance(reproduction))),
        ),
        "The headings follow CLAIM (Tejani et al. 2024) and FUTURE-AI (Lekadir et al. 2025). Not for diagnosis.",
    )


def _use(run: RunInputs) -> list[Block]:
    classes = run.model.classes
    return [
        paragraph(
            f"To sort images of single cells from stained blood smears into {len(classes)} classes, for research "
            f"and teaching: {', '.join(map(spelled, classes))}."
        ),
        paragraph(
            (
                strong("Not for diagnosis."),
                " The model is not a medical device. It must not be used to decide anything about a patient.",
            )
        ),
        Bullets(
            (
                paragraph("Users: people who study classifiers of blood cells, and their students."),
                paragraph("Role: it names a cell or abstains; a person who knows cells looks at what it says."),
                paragraph(
                    "Out of scope: cells of other classes, other stains or microscopes than those of the training "
                    "data, images with several cells."
                ),
                paragraph(
                    "Harm to expect from misuse: a blast or another rare cell named as a common one with confidence."
                ),
            )
        ),
    ]


def _data(run: RunInputs) -> list[Block]:
    blocks: list[Block] = []
    if run.audit is not None:
        audit = run.audit
        blocks += [
            paragraph(
                f"The source holds {thousands(audit.n_samples)} samples ({thousands(audit.n_unreadable)} unreadable).",
                f"The audit suggested dropping {thousands(audit.suggested_drops)}.",
            ),
            class_counts(audit),
        ]
    else:
        blocks.append(paragraph("Not audited in this run (hemalens audit)."))
    if run.splits is not None:
        blocks.append(splits_table(run.splits))
    else:
        blocks.append(paragraph("How the samples were split is not recorded beside this run."))
    reference_standard = (
        "Reference standard: the labels of the source; who gave them and how well two people agree is not recorded."
    )
    people = "Age, sex, illness and number of the people whose cells these are: not recorded."
    return [*blocks, Bullets((paragraph(reference_standard), paragraph(people)))]


def _training(run: RunInputs) -> list[Block]:
    facts, model = method_facts(run), run.model
    smoothed = f", labels smoothed by {number(facts['smoothing'])}" if facts["smoothing"] else ""
    weighted = ", classes weighted" if facts["weighted"] else ""
    epochs, best, seconds = len(run.history["epoch"]), model.best_epoch, model.train_seconds
    kept = f", weights of epoch {best} kept" if best is not None else ""
    took = f", {duration(seconds)}" if seconds is not None else ""
    sentences = [*facts["model"], *facts["augmentation"], *([facts["balance"]] if facts["balance"] else [])]
    sentences += [*facts["training"], f"Loss: cross-entropy over {facts['classes']} classes{smoothed}{weighted}."]
    sentences.append(f"{epochs} epochs{kept}{took}.")
    return [Bullets(tuple(paragraph(sentence) for sentence in sentences))]


def _scores(run: RunInputs, facts: ResultsFacts | None) -> list[Block]:
    elsewhere: list[Block] = []
    if run.elsewhere:
        elsewhere = [Heading("On other laboratories' cells"), *elsewhere_tables(run.elsewhere)]
    if facts is None:
        words = "Not evaluated: run hemalens evaluate. Nothing is known about its accuracy"
        return [paragraph(f"{words}{' at home.' if elsewhere else '.'}"), *elsewhere]
    scores, kept = facts.scores, facts.scores.abstention
    blocks: list[Block] = [
        paragraph(f"On {facts.scored_on}, {thousands(scores.n)} samples; brackets hold 95 % intervals."),
        scores_table(facts),
    ]
    right = kept.accuracy_kept
    end = "." if right is None else f" and is right in {percent(right)} of those."
    answered = f"it answers for {percent(kept.coverage)} of the samples{end}"
    blocks.append(paragraph(f"Above a confidence of {number(kept.threshold)} {answered}"))
    if facts.flawless:
        words = f"with 95 % confidence the error is below {percent(3 / scores.n)}."
        blocks.append(paragraph(f"No mistake was made; {words}"))
    return [*blocks, classes_table(facts), *elsewhere]


def _items(run: RunInputs, facts: ResultsFacts | None) -> Bullets:
    """Answer the remaining items of the guidelines, or say that they are not answered."""
    scores = facts.scores if facts else None
    damaged = mean_corruption_error(scores) if scores else None
    distorted = scores.distorted if scores else None
    external = (
        f"accuracy {elsewhere_scores(run.elsewhere)}. What was not among these sources is not known."
        if run.elsewhere
        else "not measured on images from another laboratory."
    )
    return Bullets(
        (
            paragraph(
                "Fairness: scores by age, sex or illness cannot be given, since the data do not name them.",
                "Scores by batch of background are in the report."
                if scores and scores.groups
                else "Scores by batch were not taken.",
            ),
            paragraph(f"Universality: {external}"),
            paragraph(
                "Robustness:",
                f"accuracy {percent(distorted.value)} on images distorted like those of the field."
                if distorted
                else "not measured on distorted images.",
                f"Mean balanced error over corruptions {percent(damaged)}." if damaged is not None else None,
            ),
            paragraph(
                f"Uncertainty: probabilities calibrated by one temperature ({number(scores.temperature)}); the model "
                "may abstain."
                if scores
                else "Uncertainty: not calibrated."
            ),
            paragraph(
                "Explainability: the report shows the worst mistakes.",
                map_verdict(run.explanation),
                "Explanations were not validated by experts.",
            ),
            paragraph(
                "Traceability: configuration, seed, versions and hashes stand below; the same inputs give the same "
                "files."
            ),
            paragraph("Usability and clinical benefit: not studied."),
            paragraph(f"Seed: {run.config.seed}."),
        )
    )


def _provenance(reproduction: Reproduction) -> list[Block]:
    hashes = [(f"sha256 of {file}", digest) for file, digest in reproduction.made.items()]
    return [Facts([*reproduction.facts, *hashes]), *(Code(command) for command in reproduction.commands)]
