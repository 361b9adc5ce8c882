"""Every writer, with an error at every operation on its file: the old file stays whole, and one sentence says why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluidgate.calibration.points import StepPoints
from fluidgate.calibration.steps_file import write_steps
from fluidgate.cli.calibrate import write_picture
from fluidgate.cli.options import write_json
from fluidgate.engine import EngineConfig, run
from fluidgate.errors import InputError
from fluidgate.fluid import RequestMix, plan
from fluidgate.hardware import Hardware, StepTime, write_hardware
from fluidgate.output import write_text
from fluidgate.policies import Greedy
from fluidgate.report import figures, write_figures, write_perfetto, write_report
from fluidgate.report.html import Html
from fluidgate.runs import Comparison, compare, write_csv, write_parquet, write_table
from fluidgate.serving.planfile import PlanFile
from fluidgate.studies.figures import figure_of, save
from fluidgate.studies.latex import long_table
from fluidgate.workload import generate, write_mooncake, write_vidur

HARDWARE = Hardware("test", StepTime(c0=0.01, c_tok=2e-5, c_kv=2e-7), num_gpu_blocks=400)
OLD = b"what was there before\n"
DRAWING = Html('<svg viewBox="0 0 10 10"><text>drawn</text></svg>')
Write = Callable[[Path], Any]

FAILURES = [
    (None, InputError),
    (RuntimeError("a fault of ours"), RuntimeError),
    (KeyboardInterrupt(), KeyboardInterrupt),
]
"""What an operation raises (None: no space left), and what the writer raises then."""


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    return compare("p512-d20", HARDWARE, ["greedy"], requests=20, repeats=1, loads=[0.5], timelines=True)


def _page(path: Path, comparison: Comparison) -> None:
    write_report(comparison, path)


def _csv(path: Path, comparison: Comparison) -> None:
    write_csv(comparison, path)


def _parquet(path: Path, comparison: Comparison) -> None:
    write_parquet(comparison, path)


def _figures(path: Path, comparison: Comparison) -> None:
    write_figures(comparison, path.parent)


def _drawn(path: Path, _: Comparison) -> None:
    with figure_of("a title", "x (s)", "y (s)") as (figure, _axes):
        save(figure, path.parent, path.stem)


def _claims(path: Path, _: Comparison) -> None:
    write_text(path, long_table(("claim", "verdict"), (0.5, 0.3), [("a", "b")] * 50))


def _perfetto(path: Path, _: Comparison) -> None:
    records = run(generate("p512-d20", n=10, rate=5.0), HARDWARE, Greedy(), EngineConfig(), record="decisions")
    write_perfetto(records, path)


def _table(path: Path, _: Comparison) -> None:
    write_table(path, {"about": 1}, ["a", "b"], ([k, None] for k in range(50)))


def _plan(path: Path, _: Comparison) -> None:
    fluid_plan = plan(RequestMix.from_workload(generate("p512-d20", n=50, rate=5.0)), HARDWARE)
    PlanFile.of(fluid_plan, Greedy(), EngineConfig()).save(path)


def _mooncake(path: Path, _: Comparison) -> None:
    write_mooncake(generate("lmsys", n=20), path)


def _vidur(path: Path, _: Comparison) -> None:
    write_vidur(generate("lmsys", n=20), path)


def _hardware(path: Path, _: Comparison) -> None:
    write_hardware(HARDWARE, path)


def _steps(path: Path, _: Comparison) -> None:
    five = np.arange(1.0, 6.0)
    write_steps(StepPoints(np.array(["step"] * 5), five, five, five, five, five), path)


def _json(path: Path, _: Comparison) -> None:
    write_json({"a": list(range(50))}, path)


def _picture(path: Path, _: Comparison) -> None:
    write_picture(DRAWING, path)


WRITERS: dict[str, Callable[[Path, Comparison], None]] = {
    "report.html": _page,
    "runs.csv": _csv,
    "runs.parquet": _parquet,
    "kv-cache.svg": _figures,
    "drawn.svg": _drawn,
    "claims.tex": _claims,
    "trace.json": _perfetto,
    "requests.csv": _table,
    "plan.json": _plan,
    "mooncake.jsonl": _mooncake,
    "mooncake.jsonl.gz": _mooncake,
    "vidur.csv": _vidur,
    "hardware.json": _hardware,
    "steps.csv": _steps,
    "summary.json": _json,
    "fit.svg": _picture,
}


@pytest.fixture
def write(request: pytest.FixtureRequest, comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> Write:
    """The writer of a name; folders of figures get two."""
    two = figures.all_figures(comparison)[:2]
    monkeypatch.setattr(figures, "all_figures", lambda _: two)
    return lambda path: WRITERS[request.param](path, comparison)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def written(write: Write, name: str, folder: Path, faults: Any) -> dict[str, bytes]:
    """What the writer makes of old files; from now on a file takes several writes."""
    folder.mkdir()
    write(folder / name)
    made = contents(folder)
    assert made
    faults.most_bytes = min(len(data) for data in made.values()) // 3 + 1
    for path in folder.iterdir():
        path.write_bytes(OLD)
        path.chmod(0o640)
    faults.start()
    write(folder / name)
    assert contents(folder) == made
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o640}
    return made


@pytest.mark.parametrize(("write", "name"), [(name, name) for name in WRITERS], indirect=["write"], ids=list(WRITERS))
def test_an_error_at_any_operation_leaves_the_old_file(write: Write, name: str, tmp_path: Path, faults: Any) -> None:
    folder = tmp_path / "out"
    made = written(write, name, folder, faults)
    operations = list(faults.done)
    assert {"open", "write", "fsync", "close", "replace"} <= set(operations)
    assert operations.count("write") >= 3
    for fail_at in range(len(operations)):
        for error, expected in FAILURES:
            for path in folder.iterdir():
                path.write_bytes(OLD)
            faults.start(fail_at, error)
            with pytest.raises(expected) as refusal:
                write(folder / name)
            left = contents(folder)
            assert left.keys() == made.keys()  # no file is lost, and no temporary one stays
            assert all(left[name] in (OLD, made[name]) for name in left)
            old = [folder / name for name in left if left[name] == OLD]
            assert len(old) == 1 or len(made) > 1
            if error is None:
                full = "cannot be written (No space left on device); free some space, or choose another path"
                assert str(refusal.value) in [f"{path}: {full}" for path in (folder, *old)]


@pytest.mark.parametrize(("write", "name"), [(name, name) for name in WRITERS], indirect=["write"], ids=list(WRITERS))
def test_a_failed_first_write_leaves_nothing(write: Write, name: str, tmp_path: Path, faults: Any) -> None:
    faults.start(3)
    with pytest.raises(InputError, match="No space left on device"):
        write(tmp_path / name)
    assert contents(tmp_path) == {}
