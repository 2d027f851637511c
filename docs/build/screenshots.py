"""Make every picture of the README and of docs/: make screenshots.

They show synthetic images, and the committed runs of the lab, which have no images. New runs have fixed seeds and go
to outputs/screenshots; those that are complete there are not made again. Figures are what a command wrote; pages are
photographed by Chromium. Pictures are scaled down to at most 200 KB each.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from runcard.datasets.synthetic.chest import PhantomChest
from runcard.explain.regions import BORDER

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
WORK = ROOT / "outputs" / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
LARGEST = 200_000  # bytes of a picture
SMALL = ("model.base=8", "dataset.num_images=60", "dataset.image_size_px=64")  # those of the tutorial
LETTERS = ("dataset=phantom_bone", "dataset.shortcut=true", "dataset.image_size_px=64", "model=vgg16", "model.base=8")
LAB_FIGURES = {
    "pair1-curves-log_loss.png": "lab_2_curves.png",
    "pair8-curves-dice.png": "lab_4b_curves.png",
    "pair8-path-4b_dice.png": "lab_4b_looks.png",
    "pair10-curves-dice.png": "lab_4c_curves.png",
    "pair12-curves-dice.png": "lab_4d_curves.png",
    "pair20-curves-dice.png": "lab_4e_curves.png",
}
Pixels = NDArray[np.uint8]


def main() -> None:
    """Train what the pictures are of, and draw them."""
    WORK.mkdir(parents=True, exist_ok=True)
    IMAGES.mkdir(parents=True, exist_ok=True)
    browser = find_browser()  # before anything slow

    write_films(WORK / "films")
    runcard(
        "audit", "dataset=lungs", "dataset.root=films", "augmentation=strong", "--output", "audit", exit_codes=(0, 1)
    )
    save(Image.open(WORK / "audit" / "contact_sheet.png"), "contact_sheet.jpg")
    save(Image.open(WORK / "audit" / "augmentation.png"), "augmentation.jpg")

    runcard("train", *LETTERS, "model.batchnorm=true", "loss=bce", "train.epochs=6", "run_dir=letters")
    runcard("explain", "letters")
    save(Image.open(only(WORK / "letters", "figures/activation_maps.png")), "activation_maps.jpg")
    save(Image.open(only(WORK / "letters", "explain/**/NFF_correct.png")), "sheet.jpg")

    if not (WORK / "experiments").exists():
        (WORK / "experiments").symlink_to(ROOT / "experiments")
    runcard("study", "experiments/phantoms/study.yml", "--until-decided")
    page = WORK / "outputs" / "phantoms" / "report.html"
    save(photograph(browser, page.as_uri(), 1000, 1800), "report.png")
    save(photograph(browser, section(page, "q-planted_dice").as_uri(), 1000, 2850), "report_images.jpg")
    runcard("report", "outputs/phantoms", "--figures", "figures")
    save(Image.open(only(WORK / "figures", "*path-nothing_dice.png")), "looks.png")

    with tarfile.open(ROOT / "experiments" / "lab4" / "runs.tar.xz") as runs:  # of the lab: numbers without images
        runs.extractall(WORK / "outputs", filter="data")
    study = only(WORK / "outputs", "lab4,*")
    runcard("report", f"outputs/{study.name}", "--no-images", "--figures", "lab", "--output", "lab")
    for figure, name in LAB_FIGURES.items():
        save(Image.open(WORK / "lab" / figure), name)
    page = styled(
        WORK / "lab" / "report.html", 'header .data, .verdicts li:not(:has(a[href^="#q-4b_"])) {display: none}'
    )
    save(photograph(browser, page.as_uri(), 1000, 392), "verdict.png")

    with np.load(ROOT / "experiments" / "lab4" / "mean_maps.npz") as maps:
        save(draw_mean_maps(maps), "lab_3_maps.png")

    runcard("train", "-m", "loss=bce,dice", "seed=0,1,2", "name=losses", *SMALL, "train.epochs=12")
    with tensorboard("outputs/losses") as address:
        pictures = (photograph(browser, address, 1300, 640) for _ in range(5))  # the curves come late on a busy machine
        drawn = next((picture for picture in pictures if has_curves(picture)), None)
    if drawn is None:
        sys.exit("TensorBoard drew no curve: give the command again when less else runs.")
    save(drawn.crop((0, 0, 1000, 640)), "tensorboard_arms.png")  # without its settings

    runcard("demo", "model.base=8", "run_dir=demo")
    save(Image.open(WORK / "demo" / "figures" / "predictions.png"), "predictions.png")

    sizes = {path.name: path.stat().st_size for path in sorted(IMAGES.iterdir())}
    print("\n".join(f"{size:9,d} bytes  {name}" for name, size in sizes.items()), f"\n{sum(sizes.values()):9,d} in all")


def draw_mean_maps(maps: Mapping[str, NDArray[np.float16]]) -> Image.Image:
    """Draw where the networks of task 3 look on average: a row for each width, a column for each seed."""
    num_seeds = len(maps["base8"])
    figure = Figure(figsize=(1.9 * num_seeds + 1, 4), layout="constrained")
    rows = figure.subplots(2, num_seeds)
    for axes, (name, means) in zip(rows, maps.items(), strict=True):
        for seed, (ax, mean) in enumerate(zip(axes, means, strict=True)):
            drawn = ax.imshow(mean, cmap="viridis", vmin=0, vmax=4)
            side = len(mean)
            edge, inner = side * BORDER - 0.5, side * (1 - 2 * BORDER)
            ax.add_patch(Rectangle((edge, edge), inner, inner, fill=False, edgecolor="white", ls="--"))
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{name.replace('base', 'base ')}, seed {seed}", fontsize=9)
    bar = figure.colorbar(drawn, ax=rows, shrink=0.8)
    bar.set_label("activation, times the mean", fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, dpi=120)
    return Image.open(file)


def find_browser() -> str:
    """Find Chromium, or another browser with its options; $CHROME names one."""
    for name in filter(None, (os.environ.get("CHROME"), *BROWSERS)):
        if found := shutil.which(name):
            return found
    sys.exit("No Chromium found, which photographs the pages.\nInstall chromium or Google Chrome, or name it: CHROME=…")


def runcard(*arguments: str, exit_codes: tuple[int, ...] = (0,)) -> None:
    """Give a command in WORK."""
    print("runcard", *arguments, flush=True)
    code = subprocess.run([sys.executable, "-m", "runcard.cli", *arguments], cwd=WORK).returncode
    if code not in exit_codes:
        sys.exit(code)


def only(folder: Path, pattern: str) -> Path:
    """Find the one file of a pattern."""
    found = list(folder.glob(pattern))
    assert len(found) == 1, f"{folder}: {pattern}: {found}"
    return found[0]


def photograph(browser: str, address: str, width_px: int, height_px: int) -> Image.Image:
    """Draw a page as a window of this size shows it."""
    path = WORK / "page.png"
    path.unlink(missing_ok=True)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000"]
    options += [f"--window-size={width_px},{height_px}", f"--screenshot={path}"]
    done = subprocess.run([browser, *options, address], capture_output=True, text=True, timeout=120)
    if not path.exists():
        sys.exit(f"{browser}: {address} was not drawn.\n{done.stderr[-2000:]}")
    return Image.open(path)


def section(page: Path, name: str) -> Path:
    """Write a page that shows only the section of a report in which an id is."""
    text = page.read_text(encoding="utf-8")
    before = text[: text.index(f'id="{name}"')]
    key = re.findall(r'<section id="([^"]+)"', before)[-1]
    return styled(page, f"header, nav, section:not(#{key}) {{display: none}}")


def styled(page: Path, style: str) -> Path:
    """Write a page with a further rule of style."""
    path = WORK / "styled.html"
    path.write_text(f"{page.read_text(encoding='utf-8')}<style>{style}</style>", encoding="utf-8")
    return path


@contextmanager
def tensorboard(runs: str) -> Iterator[str]:
    """Start runcard tensorboard, and stop it; gives the address that shows the arms."""
    command = [sys.executable, "-u", "-m", "runcard.cli", "tensorboard", runs, "--port", "6016"]
    with subprocess.Popen(command, cwd=WORK, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(found[0] for line in process.stdout if (found := re.search(r"http://\S+", line)))
        finally:
            process.terminate()


def has_curves(picture: Image.Image) -> bool:
    """Say whether there is more than grey in the chart of TensorBoard's first card."""
    chart = np.asarray(picture.convert("RGB"))[220:440, 350:630].astype(int)
    return bool((np.ptp(chart, axis=2) > 60).any())


def write_films(folder: Path) -> None:
    """Write 80 chest phantoms with faults: those that the caption of the contact sheet names."""
    phantoms = PhantomChest(80, 256, seed=0)
    films = [(phantoms[i][0], 255 * (phantoms[i][1] > 0).astype(np.uint8)) for i in range(80)]
    images, masks = ([film[k] for film in films] for k in range(2))
    images[25] = np.zeros_like(images[25])
    images[50], masks[50] = images[49], masks[49]
    images[7] = 255 - images[7]
    masks[11], masks[12] = masks[12], masks[11]
    masks[20] = masks[20][:, ::-1]
    images[41], masks[41] = images[40][:, ::-1], masks[40][:, ::-1]
    images[33], masks[33] = rotated(images[32]), 255 * (rotated(masks[32]) > 127).astype(np.uint8)
    for name, arrays in (("Image", images), ("Mask", masks)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i, array in enumerate(arrays):
            Image.fromarray(np.ascontiguousarray(array)).save(folder / name / f"film{i}.png")


def rotated(image: Pixels, degrees: float = 4) -> Pixels:
    """Rotate an image (H, W) about its middle."""
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(image, matrix, (width, height)), np.uint8)


def save(picture: Image.Image, name: str) -> None:
    """Write a picture to docs/images, smaller until it has at most LARGEST bytes."""
    path = IMAGES / name
    picture = picture.convert("RGB")
    picture.save(path, optimize=True, quality=85)
    if path.suffix == ".png" and path.stat().st_size > LARGEST:
        picture = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        picture.save(path, optimize=True)
    while path.stat().st_size > LARGEST:
        picture = picture.resize((int(picture.width * 0.9), int(picture.height * 0.9)), Image.Resampling.LANCZOS)
        picture.save(path, optimize=True, quality=85)


if __name__ == "__main__":
    main()
