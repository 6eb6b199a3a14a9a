"""Real aarch64 wheels on emulated Raspberry Pi cores: the same answers as on this machine."""

import json

import greedy
import pytest
import userland
from greedy import Step, answer
from userland import PI_4, PI_5, ZERO_2_W

from edgert.export import ExportOptions, export

pytestmark = pytest.mark.arm64

QUESTION = "What is the capital of France? Answer in one sentence."  # without the second half "." and "," tie
TIE = 0.1  # nats; what int8 changes against fp32 is as much
FAMILIES = ("llama", "qwen2", "qwen3", "phi3")


@pytest.fixture(scope="module")
def arm(tmp_path_factory):
    """Skips where there can be none; a build that fails is an error."""
    reason = userland.unavailable()
    if reason:
        pytest.skip(f"arm64 {reason}")
    return userland.Userland(tmp_path_factory.mktemp("arm64"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A quick export for a device."""
    root = tmp_path_factory.mktemp("exported")

    def bundle(checkpoint, device, **options):
        folder = root / f"{checkpoint.name}-{device}"
        if not folder.exists():
            export(checkpoint, folder, ExportOptions(devices=(device,), verify=False, **options))
        return folder

    return bundle


def emulated(arm, board, device, count, prompt, bundles):
    """What the board answers."""
    printed = arm.python(board, greedy.__file__, device, str(count), json.dumps(prompt), *bundles)
    return [[Step(**step) for step in answer] for answer in json.loads(printed)]


def assert_alike(found, expected):
    """Integer products are the same everywhere. What float32 adds up in another order can round an activation
    to the next code: then log-probabilities move a little, and two tokens as good as tied may change places.
    """
    for here, there in zip(expected, found, strict=True):
        if here.token != there.token:
            assert max(here.lead, there.lead) < TIE
            return
        assert abs(here.logprob - there.logprob) < TIE


@pytest.mark.parametrize("board", [PI_5, PI_4, ZERO_2_W], ids=lambda board: board.name)
def test_a_board_is_recognized_by_what_it_says_of_itself(arm, board):
    program = (
        "from edgert import devices; found = devices.detect(); print(found.profile.name, found.hardware)"
    )
    printed = arm.python(board, "-c", program)
    assert printed.startswith(f"{board.name} {board.model[:-1]}, Cortex-A")
    assert ("dotprod" in printed) == (board is PI_5)


@pytest.mark.parametrize(
    ("board", "device"),
    [
        pytest.param(PI_5, "laptop-cpu", id="blocks-pi-5"),
        pytest.param(PI_4, "raspberry-pi-4", id="rows-pi-4"),
        pytest.param(ZERO_2_W, "raspberry-pi-4", id="rows-zero-2-w"),
    ],
)
def test_tiny_models_answer_as_they_do_here(arm, checkpoints, exported, board, device):
    bundles = [exported(checkpoints(family), device) for family in FAMILIES]
    for found, bundle in zip(
        emulated(arm, board, device, 16, greedy.SOME_IDS, bundles), bundles, strict=True
    ):
        assert_alike(found, answer(bundle, device, 16, greedy.SOME_IDS))


def test_the_command_line_answers_there(arm, checkpoints, exported):
    bundle = exported(checkpoints("llama"), "raspberry-pi-4")
    options = ["--prompt", "fox", "--max-tokens", "8", "--temperature", "0", "--json"]
    printed = arm.python(PI_4, "-m", "edgert", "generate", bundle, *options)
    assert json.loads(printed)["token_ids"]


@pytest.mark.student
@pytest.mark.parametrize(
    ("board", "device"), [(PI_5, "laptop-cpu"), (PI_4, "raspberry-pi-4")], ids=["blocks-pi-5", "rows-pi-4"]
)
def test_the_student_answers_as_it_does_here(arm, student, exported, board, device):
    checkpoint = next((student.parent.parent / "checkpoints" / student.name).glob("*.gguf"))
    bundle = exported(checkpoint, device, calibrate=False)
    (found,) = emulated(arm, board, device, 10, QUESTION, [bundle])
    expected = answer(bundle, device, 10, QUESTION)
    assert [step.token for step in found] == [step.token for step in expected]
    assert_alike(found, expected)
