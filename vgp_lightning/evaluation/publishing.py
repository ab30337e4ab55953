"""Publish: an evaluation goes into a planner's model card, and its folder onto the Hugging Face Hub."""

from pathlib import Path

from vgp_lightning.agent.origin import hash_weights
from vgp_lightning.export.card import FILM, add_evaluation
from vgp_lightning.pipeline.companions import CRITIC
from vgp_lightning.pipeline.hub import upload_folder
from vgp_lightning.report.documents import read_json
from vgp_lightning.report.files import refuse_links


def publish(
    pipeline_folder: str,
    evaluation: str | None = None,
    push_to_hub: str | None = None,
    private: bool = False,
) -> str:
    """Write an evaluation into the model card of a pipeline folder, put the folder on the Hugging Face Hub, or both.

    The card gets a table, the film if there is one, and the Hub's own metadata of results.

    Args:
        pipeline_folder: Folder that ``vgp export`` wrote.
        evaluation: Folder of an evaluation of this planner, such as runs/evaluate/hopper; None: the card stays.
        push_to_hub: Repository on the Hub, such as me/hopper, which is made if there is none; None: nothing is
            uploaded. Log in first: hf auth login.
        private: Make a new repository private.

    Returns:
        The commit's address, or the card's path.

    Raises:
        ValueError: If there is nothing to do, the folder is not a planner's, the evaluation is of another planner, or
            the Hub refuses the upload.
    """
    folder = Path(pipeline_folder)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{folder} is not a pipeline folder: it has no model_index.json; make one: vgp export")
    if evaluation is None and push_to_hub is None:
        raise ValueError("there is nothing to do: give --evaluation, --push_to_hub or both")
    refuse_links(folder)
    if evaluation is not None:
        _add(folder, Path(evaluation))
    return str(folder / "README.md") if push_to_hub is None else upload_folder(folder, push_to_hub, private=private)


def _add(folder: Path, evaluation: Path) -> None:
    """Put the evaluation in a folder into a planner's card.

    Raises:
        ValueError: If it is none, or of other weights, of another critic or of a habit, or its film is none.
    """
    path = evaluation / "evaluation.json"
    refuse_links(evaluation, (path.name, FILM))
    if not path.is_file():
        raise ValueError(f"{evaluation} has no evaluation.json: evaluate the planner first, vgp evaluate {folder}")
    report = read_json(path)
    if report.get("weights_sha256") != hash_weights(folder):
        raise ValueError(f"{path} is of another planner than {folder}: evaluate this one, vgp evaluate {folder}")
    if report.get("critic") and report["critic"] != hash_weights(folder, CRITIC):
        raise ValueError(
            f"{path} is of the planner with another critic than the one in {folder}: evaluate it again, vgp evaluate "
            f"{folder}"
        )
    if report.get("habit"):
        raise ValueError(f"{path} is of the planner's habit: evaluate the planner itself, vgp evaluate {folder}")
    film = evaluation / FILM
    if report.get("video") != FILM or not film.is_file():
        add_evaluation(folder, report, None)
    elif film.read_bytes().startswith(b"GIF8"):
        add_evaluation(folder, report, film)
    else:
        raise ValueError(f"{film} is not a film: evaluate the planner again, vgp evaluate {folder}, or remove the file")
