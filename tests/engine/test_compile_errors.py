"""A policy that numba cannot compile: the user reads numba's reason, the line at fault and what to do."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest

from fluidgate.engine.compile_errors import compile_error
from fluidgate.engine.compiled import load_program
from fluidgate.errors import InputError
from fluidgate.policies import load_policy_file, policy_class, registry

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="nothing is compiled under NUMBA_DISABLE_JIT")

HEAD = """
import numpy as np

import fluidgate as fg
from fluidgate.kernel import kernel

"""
POLICY = """
@fg.policy("mine")
class Mine(fg.Policy):
    share: float = 0.5

    @staticmethod
"""
ADMIT = f"{POLICY}    def admit(params, memory, view, out_quota):\n"
GENERIC = "use numbers, arrays and loops only, or run it with compile=False"

CASES = {
    "no return": (
        f"{ADMIT}        out_quota[0] = 1  # fault\n",
        "admit",
        "No conversion from none to float64; return a time such as float('inf') on every path",
    ),
    "a return on one path only": (
        f"{ADMIT}        if view.free_blocks < 3:  # fault\n            return np.inf\n",
        "admit",
        "No conversion from none to float64; return a time such as float('inf') on every path",
    ),
    "no return from classify": (
        f"{POLICY}    def classify(params, request):\n        row = request.row  # fault\n",
        "classify",
        "No conversion from none to int64; return a class such as 0 on every path",
    ),
    "a shed without a time": (
        f"{POLICY}    def shed(params, memory, view, out_rows):\n        out_rows[0] = -1  # fault\n",
        "shed",
        "No conversion from none to float64; return a time such as float('inf') on every path",
    ),
    "a return from observe": (
        f"{POLICY}    def observe(params, memory, event):\n        return event.kind  # fault\n",
        "observe",
        "No conversion from int64 to none; return nothing on every path",
    ),
    "a helper that is not compiled": (
        f"def used_share(view):\n    return 1 - view.free_blocks / view.total_blocks\n\n{ADMIT}"
        "        if used_share(view) > 0.5:  # fault\n            out_quota[0] = 0\n        return np.inf\n",
        "admit",
        "Untyped global name 'used_share': Cannot determine Numba type of <class 'function'>; "
        "decorate used_share with @kernel (from fluidgate.kernel import kernel)",
    ),
    "a name of the view, misspelt": (
        f"{ADMIT}        out_quota[0] = view.fre_blocks  # fault\n        return np.inf\n",
        "admit",
        "Unknown attribute 'fre_blocks' of type View; did you mean free_blocks?",
    ),
    "the same, in a helper": (
        f"@kernel\ndef used(view):\n    return view.total_blocks - view.free_block  # fault\n\n{ADMIT}"
        "        out_quota[0] = used(view)\n        return np.inf\n",
        "admit",
        "Unknown attribute 'free_block' of type View; did you mean free_blocks?",
    ),
    "a name that no request has": (
        f"{POLICY}    def rank(params, request):\n        return request.deadline  # fault\n",
        "rank",
        "Unknown attribute 'deadline' of type Request; it has row, arrival_s, prompt_tokens, output_tokens, class_id",
    ),
    "a parameter, misspelt": (
        f"{ADMIT}        out_quota[0] = params.shar  # fault\n        return np.inf\n",
        "admit",
        "Unknown attribute 'shar' of type params(share); did you mean share?",
    ),
    "an unknown name": (
        f"{ADMIT}        out_quota[0] = limit  # fault\n        return np.inf\n",
        "admit",
        "NameError: name 'limit' is not defined; define limit, or import it",
    ),
    "too few parameters": (
        f"{POLICY}    def admit(params, memory, view):  # fault\n        return np.inf\n",
        "admit",
        "Signature mismatch: 4 argument types given, but function takes 3 arguments; "
        "define it as admit(params, memory, view, out_quota)",
    ),
    "a call that numba does not know": (
        f"{ADMIT}        out_quota['a'] = 0  # fault\n        return np.inf\n",
        "admit",
        "No implementation of function Function(<built-in function setitem>) found for signature: "
        f"setitem(array(int64, 1d, C), Literal[str](a), Literal[int](0)); {GENERIC}",
    ),
    "a statement that numba does not know": (
        f"{ADMIT}        import math  # fault\n\n        return math.inf\n",
        "admit",
        f"Use of unsupported opcode (IMPORT_NAME) found; {GENERIC}",
    ),
}


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    yield
    for name in ("mine", "half_full"):
        sys.modules.pop(f"fluidgate_policies_{name}", None)


@pytest.mark.parametrize(("body", "decision", "reason"), CASES.values(), ids=CASES.keys())
def test_the_reason_and_the_line_reach_the_user(tmp_path: Path, body: str, decision: str, reason: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(HEAD + body)
    (line,) = (k for k, text in enumerate(path.read_text().splitlines(), start=1) if text.endswith("# fault"))
    load_policy_file(path)
    with pytest.raises(InputError) as found:
        load_program(policy_class("mine")())
    assert str(found.value) == f"policy mine: numba cannot compile its {decision}: {path}:{line}: {reason}"


def test_the_command_line_prints_the_sentence(tmp_path: Path) -> None:
    body, _, reason = CASES["no return"]
    (tmp_path / "mine.py").write_text(HEAD + body)
    command = [str(Path(sys.executable).with_name("fluidgate")), "simulate", "--requests", "2", "--rate", "1"]
    more = ["--policy", "mine", "--policy-file", "mine.py"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"mine.py:14: {reason}" in " ".join(done.stderr.split())


def test_the_documentation_shows_what_is_printed(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    mistakes = {"        return np.inf\n": "", "@kernel\n": "", "view.free_blocks": "view.fre_blocks"}
    block = next(block for block in page.split("```") if "error: policy half-full" in block)
    shown = [f"error: {part.strip()}" for part in " ".join(block.split()).split("error: ")[1:]]  # the page wraps them
    assert len(shown) == len(mistakes)
    for (right, wrong), line in zip(mistakes.items(), shown, strict=True):
        path = tmp_path / "half_full.py"
        path.write_text(code.replace(right, wrong))
        load_policy_file(path)
        with pytest.raises(InputError) as found:
            load_program(policy_class("half-full")())
        assert f"error: {found.value}" == line.replace("/home/me", str(tmp_path))


def _admit(params, memory, view, out_quota):  # type: ignore[no-untyped-def]
    return float("inf")


def test_colours_and_addresses_are_left_out() -> None:
    colours = RuntimeError(
        "\x1b[1m\x1b[1mFailed in nopython mode pipeline (step: nopython frontend)\x1b[0m\n"
        f'\x1b[1mno such thing as <f at 0x7fa1> \x1b[1m\nFile "{__file__}", line 3:\x1b[0m\nany code\n'
    )
    said = compile_error(colours, "mine", "admit", _admit)
    assert said == f"policy mine: numba cannot compile its admit: {__file__}:3: no such thing as <f>; {GENERIC}"


def test_an_error_without_words_or_place_names_its_kind_and_the_function() -> None:
    line = _admit.__code__.co_firstlineno
    said = compile_error(AssertionError(), "mine", "admit", _admit)
    assert said == f"policy mine: numba cannot compile its admit: {__file__}:{line}: AssertionError; {GENERIC}"


def test_a_place_within_numba_is_not_the_users() -> None:
    error = RuntimeError(f'odd\n\nFile "{numba.__file__}", line 7:\nDuring: typing of call at {__file__} (9)\n')
    assert f"{__file__}:9: odd;" in compile_error(error, "mine", "admit", _admit)
