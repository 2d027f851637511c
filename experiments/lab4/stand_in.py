"""Lays out other images of bone, skin and chest in place of the course's, each knee once.

    python experiments/lab4/stand_in.py SOURCE FOLDER

SOURCE has Bone/ (knees, Osteoporosis and Normal) and Skin/ in folders train/ and validation/, X_ray/ with Image/ and
Mask/. FOLDER gets links to their files, as the course's tree has them: Osteoporosis is AFF, Normal is NFF. Of two
nearly equal knees, as the audit finds them, the training image is left out; of two with different classes both are.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

from runcard.audit.audit import audit_data
from runcard.audit.decoded import decode
from runcard.config.compose import compose_config
from runcard.config.schema import parse_config
from runcard.data.datamodule import open_source

CLASSES = {"Osteoporosis": "AFF", "Normal": "NFF"}
PAIRS = ("near_duplicates", "near_duplicates_across", "near_duplicates_labels")


def duplicates(root: Path) -> list[str]:
    """Return the ids of the knees that are to be left out, in natural order."""
    config, _ = parse_config(compose_config(["dataset=image_folder", f"dataset.root='{root}'"]))
    source = open_source(config.dataset)
    decoded = decode(config, source)
    audit = audit_data(source, config.dataset, decoded.profiles, decoded.samples.faults)
    sides, profiles = audit.data.sides, audit.data.profiles
    out = set()
    for finding in audit.findings:
        if finding.check in PAIRS:
            for pair in zip(finding.samples[::2], finding.samples[1::2], strict=True):
                in_training = [i for i in pair if sides[i] == "train"]
                out |= {*pair} if finding.check.endswith("labels") else {(in_training or pair)[-1]}
    return [profiles[i].id for i in sorted(out)]


def link(source: Path, folder: Path, left_out: list[str]) -> int:
    """Link the files of source in folder, but those left out; return how many there are."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    kept = [path for path in files if path.relative_to(source).as_posix() not in left_out]
    for path in kept:
        place = folder.joinpath(*(CLASSES.get(part, part) for part in path.relative_to(source).parts))
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(path.absolute())
    return len(kept)


def main() -> None:
    """Lay out the folder that the command line asks for."""
    parser = ArgumentParser(description="The course's folder, of other images.")
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    left_out = duplicates(arguments.source / "Bone")
    print(f"left out of Bone: {', '.join(left_out)}")
    for name in ("Lab2/Bone", "Lab2/Skin", "Lab3/X_ray"):
        source = arguments.source / Path(name).name
        number = link(source, arguments.folder / name, left_out if name == "Lab2/Bone" else [])
        print(f"{arguments.folder / name}: {number} files")


if __name__ == "__main__":
    main()
