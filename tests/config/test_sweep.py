"""The real command: sweeps, mistakes, interruptions, and the help; and how a sweep's folders are named.

A run of the command costs seconds, so each process answers several questions.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import Command
from conftest import ROOT, TINY
from evidence import numbers, read_csv, run_json
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from make_data import write_course
from runcard.config.hydra_errors import as_message
from runcard.config.sweep import MAX_FOLDER_NAME, folder_name, sweep_arguments
from runcard.errors import UserError
from runcard.runs.folders import run_folders
from runcard.runs.reader import find_runs
from runcard.training.checkpoint import read_last

SMALL = (*TINY, "train.epochs=1", "train.pictures=0")


# Names of a sweep's folders

LONG = ",".join(f"model.some_key_{i}=[1,2,3]" for i in range(20))
OVERRIDES = ["", "seed=0", "seed=1", "optimizer.lr=1e-3", "optimizer.lr=1e+3", "experiment=lab4/task4b", "+a.b=1", "~c"]
OVERRIDES += [
    "model.dropout_at=[pool,concat]",
    "model.dropout_at=[pool]",
    "name='ä ö/../x'",
    LONG,
    LONG + "0",
    LONG[:120],
]


@pytest.mark.parametrize("overrides", OVERRIDES)
def test_folder_names_are_one_short_component(overrides):
    name = folder_name(overrides)
    assert 0 < len(name) <= MAX_FOLDER_NAME == 120
    assert not set(name) & set("/\\[]{}'\" $*?:<>|~")
    assert name not in (".", "..")
    assert folder_name(overrides) == name
    whole = len(overrides) <= MAX_FOLDER_NAME and name == (overrides.replace("/", ".") or "defaults")
    assert whole or re.fullmatch(r".{1,111}-[0-9a-f]{8}", name)


def test_folder_names_are_distinct():
    assert len({folder_name(overrides) for overrides in OVERRIDES}) == len(OVERRIDES)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dataset.split.group_regex=^(p\\d)", "dataset.split.group_regex=^[p\\d]"),
        ("experiment=lab4/a", "experiment=lab4_a"),
        ("model.dropout_at=[]", "model.dropout_at="),
    ],
)
def test_replaced_characters_keep_folder_names_distinct(one, other):
    assert folder_name(one) != folder_name(other)


def test_folder_names_show_the_overrides():
    assert folder_name("loss=bce,model.dropout=0.2") == "loss=bce,model.dropout=0.2"
    assert folder_name("") == "defaults"
    assert folder_name("++dataset.folder=a,seed=1") == "dataset.folder=a,seed=1", "as the same key without ++"


@pytest.mark.parametrize(
    ("arguments", "unsure"),
    [
        ("-m loss=bce,dice seed=0,1 model.base=3", ()),
        ("-m experiment=lab4/task4a loss=bce,dice dataset.root=a", ()),
        # A sweep over experiments, or over a group, has keys that the default config may lack.
        ("-m experiment=a,b dataset.root=c seed=1 train.epochs=2,3", ("dataset.root=c", "train.epochs=2,3")),
        ("--multirun dataset=lungs,image_folder dataset.root=c model.base=2", ("dataset.root=c",)),
        ("-m experiment=glob(*) dataset.root=a", ("dataset.root=a",)),
        ("-m experiment=a,b ++model.base=3 ~loss.smooth hydra.verbose=true", ()),
    ],
)
def test_a_sweep_over_configs_takes_keys_that_only_they_have(arguments, unsure):
    given = arguments.split()
    expected = [f"++{argument}" if argument in unsure else argument for argument in given]
    assert sweep_arguments(given)[: len(given)] == expected


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ("-m loss=bce,dice seed=0,1", ""),
        ("-m loss=bce,dice seed=0,1 name=a dataset.root=x train.num_workers=2", ""),  # which change no number
        ("-m loss=bce,dice model.base=8 seed=0,1", "/model.base=8"),
        ("-m experiment=a,b ++model.base=8 scale=quick", "/model.base=8,scale=quick"),
    ],
)
def test_what_all_jobs_share_stands_once_in_the_name_of_their_folder(arguments, folder):
    given = arguments.split()
    sweep, excluded = sweep_arguments(given)[-2:]
    assert sweep == f"hydra.sweep.dir='outputs/${{name}}{folder}'"
    assert excluded.startswith("hydra.job.config.override_dirname.exclude_keys=[")
    assert "loss" not in excluded
    assert ("model.base" in excluded) == ("model.base" in arguments)


@pytest.mark.parametrize("arguments", ["loss=bce", "-m seed=0,1 hydra.sweep.dir=mine"])
def test_a_single_run_and_a_folder_of_ones_own_are_left_as_they_are(arguments):
    assert sweep_arguments(arguments.split()) == arguments.split()


def test_a_sweep_over_experiments_runs(train, tmp_path):
    folder = tmp_path / "course"
    write_course(folder, 5)
    tiny = (f"dataset.root={folder}", "model.base=2", "train.epochs=1")
    done = train("-m", "experiment=lab4/task4a,lab4/task4b", "scale=quick", "name=lab", *tiny)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "outputs" / "lab").iterdir()
    assert sweep.name == "model.base=2,scale=quick,train.epochs=1"
    assert {p.name for p in sweep.iterdir() if p.is_dir()} == {f"experiment=lab4.task4{letter}" for letter in "ab"}
    assert "scale=quick: a smoke test" in done.stdout


# Sweeps


def table(done):
    """Return (value, folder) of each line of the table at the end of a sweep; a folder may be relative."""
    rows = done.stdout[done.stdout.rindex("best value") :].splitlines()[1:]
    return [(row.split("  ")[0], row.rstrip().rpartition("  ")[2]) for row in rows if row.strip()]


def test_repeated_sweep_trains_nothing(train, tmp_path):
    command = ("-m", *SMALL, "loss=bce,dice", "model.dropout=0,0.2", "name=dropout")
    done = train(*command)
    assert (done.returncode, done.stderr) == (0, "")
    folders = run_folders(tmp_path / "outputs" / "dropout")
    assert len(folders) == 4
    for loss in ("bce", "dice"):
        for dropout in ("0", "0.2"):
            (folder,) = [f for f in folders if f.name == f"loss={loss},model.dropout={dropout}"]
            config = run_json(folder)["config"]
            assert (config["model"]["dropout"], config["loss"]["_target_"].split(".")[2]) == (float(dropout), loss)
    expected = sorted((f"{run_json(f)['best']['value']:.4f}", f) for f in folders)
    assert sorted((value, tmp_path / folder) for value, folder in table(done)) == expected
    assert done.stdout.count("best value") == 1

    times = {folder: (folder / "metrics.csv").stat().st_mtime_ns for folder in folders}
    again = train(*command)
    assert (again.returncode, again.stderr) == (0, "")
    assert {folder: (folder / "metrics.csv").stat().st_mtime_ns for folder in folders} == times
    assert again.stdout.count("completed before, ") == 4
    assert sorted((value, tmp_path / folder) for value, folder in table(again)) == expected
    assert not re.search(r"^epoch ", again.stdout, re.MULTILINE)


def test_a_sweep_goes_on_after_a_failure(train, tmp_path):
    settings = [override for override in SMALL if not override.startswith("model.base")]
    done = train("-m", *settings, "model.base=abc,4", "name=fails")
    assert done.returncode == 2
    fault = "model.base must be an integer >= 1, got 'abc'"
    assert done.stderr.strip() == fault, "once, without a traceback"
    assert done.stdout.index("#0") < done.stdout.index("#1") < done.stdout.index("best value")
    (first, second) = table(done)
    assert first[0] == f"failed: {fault}"
    assert float(second[0]) > 0
    (folder,) = run_folders(tmp_path / "outputs" / "fails")
    assert folder.name == "model.base=4"
    assert run_json(folder)["status"] == "completed"


def test_sweep_over_models_names_the_one_that_lacks_a_key(train, tmp_path):
    done = train("-m", *SMALL, "model=vgg16,unet", "model.dropout_at=[concat]", "name=models")
    assert done.returncode == 2
    assert done.stderr.startswith("model.dropout_at: no such option of model=vgg16.")
    assert done.stderr.splitlines()[1].startswith("No run was started: ")
    assert not (tmp_path / "outputs").exists()
    forced = train("-m", *SMALL, "model=vgg16,unet", "++model.dropout_at=[concat]", "name=models")
    assert forced.stderr.startswith("model.dropout_at: no such option of model=vgg16 (runcard.models.vgg16.VGG16).")
    assert float(table(forced)[1][0]) > 0


def test_a_sweep_of_no_jobs_is_an_error(train, tmp_path):
    done = train("-m", "experiment=glob(nothing*)")
    assert (done.returncode, done.stdout.strip()) == (2, "")
    assert done.stderr == "the sweep has no jobs: a glob or choice on the command line matches nothing.\n"
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


# Mistakes


def test_a_mistyped_key_is_answered_before_torch(tmp_path):
    command = [sys.executable, "-X", "importtime", str(ROOT / "train.py"), "model.bse=3"]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    seconds = time.perf_counter() - started
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2
    assert lines == ["model.bse: no such option of model=unet. Did you mean 'model.base'?"]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in imported
    assert not imported & {"torch", "torchvision", "albumentations", "cv2", "matplotlib", "lightning_fabric"}
    assert not list(tmp_path.iterdir())
    assert seconds < 10, "under a second on an idle machine"


# overrides, and words that must be in the answer
MISTAKES = [
    ("model.bse=3", ["model.bse: no such option of model=unet", "Did you mean 'model.base'?"]),
    ("model=vgg16 model.haed=[4]", ["model.haed: no such option of model=vgg16", "'model.head'"]),
    ("optimizer.lrr=1", ["no such option of optimizer=adam", "'optimizer.lr'"]),
    ("loss.smoth=2", ["no such option of loss=dice", "'loss.smooth'"]),
    ("train.epoch=3", ["train.epoch: no such option", "'train.epochs'"]),
    ("nme=a", ["nme: no such option", "'name'"]),
    ("modle=unet", ["modle: no such option", "'model'"]),
    ("zzzzzz=1", ["zzzzzz: no such option", "There are ", "model", "train"]),
    ("lr=1", ["lr: no such option. Did you mean 'optimizer.lr'?"]),
    ("batch_size=1", ["Did you mean 'train.batch_size'?"]),
    ("dataset.root=x", ["of dataset=phantom_chest. These have it: dataset=image_folder, dataset=image_mask."]),
    ("hydra/launcher=slurm hydra.launcher.partiton=a", ["Did you mean 'hydra.launcher.partition'?"]),
    ("hydra/launcher=slurm hydra.launcher.timeout_min=2h", ["hydra.launcher.timeout_min=2h: Value '2h'", "Integer."]),
    ("dataset.split.vall_fraction=1", ["'dataset.split.val_fraction'"]),
    ("~model.bse", ["model.bse: no such option", "'model.base'"]),
    ("model=unett", ["model=unett", "conf/model/unett.yaml", "unet, vgg16", "Did you mean 'unet'?"]),
    ("scheduler=zzz", ["scheduler=zzz", "cosine, none, onecycle, plateau"]),
    ("scale=quik", ["'quick'"]),
    ("loss=", ["conf/loss/.yaml", "bce, bce_dice, cross_entropy, dice"]),
    ("hydra/launcher=nowhere", ["hydra/launcher=nowhere"]),
    ("'model.base=3", ["'model.base=3", "^"]),
    ("model.base", ["An override is key=value: model.base=…"]),
    ("model.dropout_at=[pool", ["[pool", "A list is one argument", "'model.dropout_at=[a,b]'"]),
    ("dataset.split.group_regex=([A-Z]+)", ["is quoted twice"]),
    ("+model.base=3", ["model.base", "+"]),
    ("+seed=1", ["seed", "+"]),
    ("model=unet,vgg16", ["model=unet,vgg16", "-m"]),
    ("seed=0,1", ["seed=0,1", "-m"]),
]


@pytest.mark.parametrize(("overrides", "words"), MISTAKES, ids=[overrides for overrides, _ in MISTAKES])
def test_message_of_a_wrong_override(overrides, words):
    arguments = overrides.split()
    with initialize_config_dir(str(ROOT / "conf")), pytest.raises(HydraException) as raised:
        compose("config", arguments)
    answer = as_message(raised.value, arguments)
    assert [word for word in words if word not in answer] == []
    assert 1 <= len(answer.splitlines()) <= 4
    assert "Traceback" not in answer
    if words[-1] in ("+", "-m"):
        assert "no such option" not in answer


def test_a_launcher_without_a_sweep_is_refused(tmp_path):
    done = Command("train.py", "hydra/launcher=joblib", folder=tmp_path).wait()
    assert_mistake(done, tmp_path, "hydra/launcher=joblib: a launcher starts the runs of a sweep", "Add -m")


def assert_mistake(done, tmp_path, *words):
    """Check a mistake's answer: exit code 2, one to four lines, no traceback, and nothing left on the disk."""
    assert done.returncode == 2, done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert 1 <= len(done.stderr.strip().splitlines()) <= 4
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p != tmp_path / "outputs"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("loss=bce", "model=vgg16", "model.base=2", "dataset.image_size_px=32"),
            ["model=vgg16", "dataset=phantom_chest", "model=unet"],
        ),
        (("loss=null",), ["loss"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_config_that_cannot_run(train, tmp_path, arguments, words):
    assert_mistake(train(*arguments), tmp_path, *words)


@pytest.mark.parametrize("root", [(), ("dataset.root=nowhere",)])
def test_missing_data_folder_is_a_user_error(run_config, tmp_path, root):
    with pytest.raises(UserError, match=r"dataset\.root"):
        run_config("a", *TINY[2:], "dataset=lungs", *root)
    assert not (tmp_path / "a").exists()


# Interruptions


def test_interrupted_before_the_first_epoch_leaves_no_folder(tmp_path):
    with subprocess.Popen([sys.executable, str(ROOT / "train.py"), *TINY], cwd=tmp_path) as process:
        while not list(tmp_path.glob("outputs/run/*")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)  # torch is being imported
    assert process.returncode == 130
    assert not list(tmp_path.glob("outputs/run/*"))


def interrupted(tmp_path, sign, *overrides):
    """Start a long training, sends the signal after the first line of its second epoch, and return how it ended."""
    settings = (*TINY, "train.epochs=1000", "train.log_every_steps=1", "train.pictures=0", *overrides)
    command = Command("train.py", *settings, f"run_dir=outputs/{sign.name}", folder=tmp_path)
    for line in command.lines():
        if line.startswith("epoch 2/1000  step"):
            command.send_signal(sign)
            break
    return command.wait()


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM], ids=lambda sign: sign.name)
def test_a_signal_interrupts(tmp_path, sign):
    done = interrupted(tmp_path, sign)
    assert done.returncode == 130
    assert "Traceback" not in done.stdout + done.stderr
    assert "goes on" in done.stdout + done.stderr
    assert f"""run_dir='"outputs/{sign.name}"'""" in done.stdout
    folder = tmp_path / "outputs" / sign.name
    record = run_json(folder)
    assert (record["status"], record["error"]) == ("interrupted", None)
    assert 1 <= len(read_csv(folder / "metrics.csv")) < 1000
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert not list(folder.rglob("*.tmp*"))


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="there is no such signal")
def test_sigusr1_ends_a_run_with_its_epoch(tmp_path):
    done = interrupted(tmp_path, signal.SIGUSR1, "train.checkpoint_every=1000", "train.batch_size=2", "optimizer.lr=0")
    assert done.returncode == 75, done.stderr
    assert "stopped by SIGUSR1 after epoch 2. The same command goes on" in done.stdout
    folder = tmp_path / "outputs" / "SIGUSR1"
    assert run_json(folder)["status"] == "interrupted"
    assert [row["epoch"] for row in read_csv(folder / "metrics.csv")] == ["1", "2"]
    assert read_last(folder / "checkpoints" / "last.ckpt", "", "")["state"]["epoch"] == 2, "saved, though no better"


# Help


def test_help_names_choices_and_keys(train, tmp_path):
    done = train("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in (
        "runcard train -m",
        "run_dir=",
        "model: unet, vgg16",
        "loss: bce, bce_dice",
        "scheduler:",
        "  train.batch_size=8 ",
    ):
        assert word in done.stdout
    assert re.search(r"^  model.base=16 +channels of the first level", done.stdout, re.MULTILINE)
    assert "_target_" not in done.stdout
    assert "\n  model.head=[64, 64] " in train("--help", "model=vgg16").stdout
    assert not list(tmp_path.iterdir())


def test_the_config_can_be_seen_without_running_it(train, tmp_path):
    done = train("--cfg", "job", "model.base=32", "loss=bce")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  base: 32\n" in done.stdout
    assert "runcard.losses.bce.BCE" in done.stdout
    assert not list(tmp_path.iterdir())


# Again


def rerun_command(run):
    """Return the arguments of train.py that `make rerun RUN=run` gives."""
    make = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "rerun", f"RUN={run}"], capture_output=True, text=True, check=True
    )
    line = make.stdout.replace("\\\n", " ")
    return shlex.split(line[line.index("train.py") + len("train.py") :].splitlines()[0])


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_rerun_repeats_a_saved_config(run_config, train, tmp_path):
    overrides = (*SMALL, "model.dropout=0.2", "augmentation=light", "optimizer=sgd", "scheduler=onecycle", "seed=5")
    first = run_config("first", *overrides)
    first = first.rename(tmp_path / "loss=dice,a")  # a sweep's folder: its name has signs that Hydra reads
    command = rerun_command(f"{first}/")
    done = train(*command)
    assert (done.returncode, done.stderr) == (0, "")
    (again,) = tmp_path.glob("loss=dice,a-rerun-*")
    assert run_json(again)["config_hash"] == run_json(first)["config_hash"]
    assert numbers(again) == numbers(first)
    assert sorted(tmp_path.iterdir()) == [first, again, tmp_path / "outputs"], "and what the audit keeps"

    (first / ".hydra" / "config.yaml").write_text(
        (first / ".hydra" / "config.yaml").read_text().replace("seed: 5", "seed: 6")
    )
    clash = train(*command)  # a saved config has no JobReporter: train.py itself must say it
    assert clash.returncode == 2
    assert "seed (5 there, 6 here)" in clash.stderr
    assert "Traceback" not in clash.stderr


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A completed run of the real command, of a config that differs from the default one in four groups."""
    folder = tmp_path_factory.mktemp("parent")
    command = ["loss=bce", "augmentation=light", "optimizer=sgd", "model.dropout=0.2", "run_dir=a", *SMALL]
    assert Command("train.py", *command, folder=folder).wait().returncode == 0
    return folder / "a"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_a_rerun_knows_its_choices_and_can_be_compared(parent, train, tmp_path):
    first = shutil.copytree(parent, tmp_path / "a")
    done = train(*rerun_command(first))
    (again,) = tmp_path.glob("a-rerun-*")
    assert run_json(again)["choices"] == run_json(first)["choices"]
    assert "phantom_chest: 16 train, 4 val · unet · bce" in done.stdout
    assert re.search(r"Files and fixes: runcard audit .*dataset\.num_images=20", done.stdout), "of these data"
    found = find_runs([str(again)])
    assert ([run.folder for run in found.runs], found.left_out) == ([again], ())


def test_a_run_is_extended_without_its_config_being_typed_again(parent, train, tmp_path):
    done = train(f"train.extend={parent}", "train.epochs=3", "run_dir=b")
    assert (done.returncode, done.stderr) == (0, "")
    first, longer = run_json(parent), run_json(tmp_path / "b")
    assert longer["choices"] == first["choices"]
    kept = {key: value for key, value in longer["config"].items() if key not in ("train", "name", "run_dir", "derived")}
    assert kept == {key: first["config"][key] for key in kept}
    assert longer["epochs"] == 3
    assert read_csv(tmp_path / "b" / "metrics.csv")[:1] == read_csv(parent / "metrics.csv")
    assert find_runs([str(tmp_path / "b")]).left_out == ()


def test_the_config_of_an_extended_run_may_be_typed_again(parent, train):
    typed = ("loss=bce", "model=unet", "model.dropout=0.2")
    assert train(f"train.extend={parent}", "train.epochs=3", "run_dir=b", *typed).returncode == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("loss=dice", "train.epochs=3"), "not loss._target_ (runcard.losses.bce.BCE there"),
        (("model.base=5", "train.epochs=3"), "only train.epochs may differ from"),
        ((), "train.epochs=1 must exceed the 1 of"),
    ],
)
def test_an_extended_run_is_the_same_config(parent, train, overrides, message):
    done = train(f"train.extend={parent}", "run_dir=b", *overrides)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_extended_is_refused_before_torch_is_loaded(train, tmp_path):
    done = train("train.extend=nowhere", "train.epochs=3")
    assert done.returncode == 2
    assert done.stderr.startswith("train.extend: nowhere is not a run folder: ")
    for i in range(5):
        (tmp_path / "sweep" / f"seed={i}").mkdir(parents=True)
        (tmp_path / "sweep" / f"seed={i}" / "run.json").write_text("{}")
    done = train("train.extend=sweep", "train.epochs=3")
    named = "Name one of the runs below it: sweep/seed=0, sweep/seed=1, sweep/seed=2 and 2 more."
    assert done.stderr.rstrip().endswith(named)
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("outputs/run/*"))
