"""The files of the C interface: which are written, how they are named, and what is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import qcc
from qcc.backends.llvm.c_interface.c_text import c_string, in_comment
from qcc.backends.llvm.c_interface.description import ELEMENT_TYPES, describe, prefix_of
from qcc.backends.llvm.c_interface.header import header_text
from qcc.cli.main import run
from qcc.compiler import compile_file
from qcc.errors import ConfigError, OutputError
from qcc.files import write_files
from qcc.runtime.build import codegen
from qcc.runtime.executable import Executable
from tests.c_interface.building import STRICT, Driving, Machine, build_driver, drive
from tests.c_interface.models import CModel, several, small_cnn
from tests.passes.float_models import Net
from tests.runtime.models import net_with_free_batch, net_with_region, small_net

HOST = Machine.of("host")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_model(model: CModel, folder: Path) -> None:
    """``model.onnx`` and ``calib.npz``."""
    onnx.save(model.model, folder / "model.onnx")
    arrays = {n: np.stack([feeds[n] for feeds in model.feeds]) for n in model.feeds[0]}
    np.savez(folder / "calib.npz", **arrays)  # type: ignore[arg-type]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("file", ["net.o", "libnet.so", "libnet.a", "net.a"])
def test_the_command_line_writes_header_and_example_beside_every_form(
    file: str, here: Path
) -> None:
    write_model(small_cnn(), here)
    assert run(["compile", "model.onnx", "--calib", "calib.npz", "-o", file]) == 0
    assert names(here) == {"model.onnx", "calib.npz", file, "net.h", "net_example.c"}
    HOST.build(here, ["net_example.c", file, "-Wl,-rpath,$ORIGIN"], "program", *STRICT)
    assert HOST.run(here, "./program").stdout.count("\n") == 1


def test_equal_input_gives_equal_files(tmp_path: Path) -> None:
    graph, _ = small_net()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        codegen(graph).save(tmp_path / folder / "net.o")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_nothing_is_written_where_one_of_the_files_cannot_be(here: Path) -> None:
    (here / "net_example.c").mkdir()
    graph, _ = small_net()
    with pytest.raises(OutputError, match=r"net_example\.c: it is a folder"):
        codegen(graph).save(here / "net.o")
    assert names(here) == {"net_example.c"}


def test_nothing_is_written_where_the_disk_is_full_in_between(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([None, OSError(28, "No space left on device")])

    def fsync(descriptor: int) -> None:
        error = next(calls)
        if error is not None:
            raise error

    (here / "a").write_bytes(b"old")
    monkeypatch.setattr("os.fsync", fsync)
    with pytest.raises(OutputError, match="cannot write b: No space left"):
        write_files({Path("a"): b"1", Path("b"): b"2", Path("c"): b"3"})
    assert names(here) == {"a"}
    assert (here / "a").read_bytes() == b"old"


def test_nodes_that_need_onnxruntime_are_listed_with_their_reasons(here: Path) -> None:
    graph, _ = net_with_region()
    with pytest.raises(ConfigError, match="onnxruntime") as caught:
        codegen(graph).save("net.o")
    assert "(Erf)" in caught.value.message
    assert "(Softplus)" in caught.value.message
    assert "the result is not quantized" in caught.value.message
    assert not names(here)


def test_a_model_of_which_nothing_is_quantized_is_advised_to_stay_float(here: Path) -> None:
    net = Net(0)
    y = net.op("Add", net.input("x", 2, 3), net.normal(2, 3))
    feeds = [{"x": np.ones((2, 3), np.float32)}]
    made = qcc.compile(net.model(y).SerializeToString(), feeds)
    with pytest.raises(ConfigError, match="--precision float32 may compile them"):
        made.save("net.o")
    made = qcc.compile(net.model(y).SerializeToString(), precision="float32")
    made.save("net.o")
    assert "net.o" in names(here)


def test_code_for_several_instruction_sets_is_no_object(here: Path) -> None:
    graph, _ = small_net()
    with pytest.raises(ConfigError, match="one instruction set, not for x86-avxvnni, x86-avx2"):
        codegen(graph, "x86-avx2,x86-avxvnni").save("net.o")
    write_model(small_cnn(), here)
    words = ["compile", "model.onnx", "--calib", "missing", "--target", "x86-avx2,arm-neon"]
    assert run([*words, "-o", "net.o"]) == 1
    assert "net.o" not in names(here)


def test_an_export_target_is_no_object(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(small_cnn(), here)
    words = ["compile", "model.onnx", "--calib", "calib.npz", "--target", "onnx", "-o", "net.so"]
    assert run(words) == 1
    assert "gives an ONNX model" in " ".join(capsys.readouterr().err.split())


def test_a_loaded_artifact_is_no_object(here: Path) -> None:
    graph, _ = small_net()
    codegen(graph).save("net.qcc")
    with pytest.raises(ConfigError, match="compile the model again"):
        qcc.load("net.qcc").save("net.o")
    assert names(here) == {"net.qcc"}


def test_a_model_whose_shapes_are_free_is_compiled_for_those_of_the_samples(here: Path) -> None:
    graph, feeds = net_with_free_batch()
    with pytest.raises(ConfigError, match="needs fixed shapes"):
        codegen(graph).save("net.o")
    codegen(graph, shapes={"x": feeds["x"].shape}).save("net.o")
    assert "#define NET_INPUT_0_DIMS {2, 3, 4, 4}" in (here / "net.h").read_text()


def test_the_command_line_says_which_shapes_it_took(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = Path(__file__).parents[2] / "examples" / "digits"
    words = ["compile", str(digits / "digits.onnx"), "--calib", str(digits / "calib.npz")]
    assert run([*words, "--samples", "8", "-o", "digits.o", "--weights-file", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (
        "object code has fixed shapes, those of the first sample: x [1, 1, 8, 8]"
        in (report["notes"])
    )
    sizes = [(here / name).stat().st_size for name in ("digits.o", "digits.weights")]
    assert report["output_bytes"] == sum(sizes)


@pytest.mark.parametrize(("dtype", "element"), [("uint8", 2), ("int8", 3)])
def test_integer_inputs_and_outputs_come_with_their_numbers(
    dtype: str, element: int, here: Path
) -> None:
    proto = onnx.parser.parse_model(_INTEGERS.replace("DTYPE", dtype))
    made = qcc.compile(proto.SerializeToString())
    assert isinstance(made, Executable)
    made.save("model.o")
    text = (here / "model.h").read_text()
    assert "#define MODEL_INPUT_0_SCALE 0.5\n#define MODEL_INPUT_0_ZERO_POINT 3\n" in text
    assert "#define MODEL_OUTPUT_0_SCALE 0.25\n#define MODEL_OUTPUT_0_ZERO_POINT 7\n" in text
    assert f"MODEL_{dtype.upper()} = {element}" in text
    build_driver(HOST, here)
    feeds = {"x": np.arange(15, dtype=dtype).reshape(3, 5)}
    for side in ("begin", "end"):
        drive(HOST, made, feeds, made.run(feeds), here, Driving(side, 0xFF, threads=2))


_INTEGERS = """<ir_version: 10, opset_import: ["" : 21]>
g (DTYPE[3, 5] x) => (DTYPE[3, 5] y)
<float sx = {0.5}, DTYPE zx = {3}, float sy = {0.25}, DTYPE zy = {7}>
{
    a = DequantizeLinear(x, sx, zx)
    b = Relu(a)
    y = QuantizeLinear(b, sy, zy)
}"""


def test_emulated_code_is_no_object(here: Path) -> None:
    graph, _ = small_net()
    with pytest.raises(ConfigError, match="emulated code for arm-neon only runs here"):
        codegen(graph, "arm-neon", emulate=True).save("net.o")
    assert not names(here)


def test_symbols_are_named_by_the_file() -> None:
    assert [prefix_of(stem) for stem in ("net", "Net-2.1", "a b")] == ["net", "Net_2_1", "a_b"]
    for stem in ("8bit", "netz\u00e4", "_net", "a+b", "-a", ""):
        with pytest.raises(ConfigError, match="makes no C name"):
            prefix_of(stem)


def test_a_name_that_makes_no_symbol_is_refused_before_the_model_is_read(here: Path) -> None:
    with pytest.raises(ConfigError, match="'8bit' makes no C name"):
        compile_file(Path("missing.onnx"), Path("8bit.o"), calibration=None, target="host")


def test_a_separate_file_of_weights_is_only_for_object_code(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(small_cnn(), here)
    words = ["compile", "model.onnx", "--calib", "calib.npz", "--weights-file", "-o", "net.qcc"]
    assert run(words) == 1
    assert "have a separate file of weights, not net.qcc" in " ".join(
        capsys.readouterr().err.split()
    )


def test_python_refuses_separate_weights_of_an_artifact(here: Path) -> None:
    with pytest.raises(ConfigError, match="have a separate file of weights"):
        codegen(small_net()[0]).save(here / "net.qcc", weights_file=True)


def test_names_of_tensors_become_c_strings_and_never_end_a_comment() -> None:
    assert c_string('a"b\\c?\n\u00fc') == '"a\\042b\\134c\\077\\012\\303\\274"'
    assert "*/" not in in_comment("a*/b/*")
    assert not in_comment("a\\").endswith("\\")


def test_strange_names_reach_the_program_unharmed(here: Path) -> None:
    net = Net(0)
    x = net.input('x*/"\\\u00fc%s', 1, 4)
    y = net.op("MatMul", x, net.normal(4, 3))
    made = qcc.compile(net.model(y).SerializeToString(), precision="float32")
    made.save("net.o")
    HOST.build(here, ["net_example.c", "net.o"], "program", "-std=c99", "-pedantic", *STRICT)
    (here / "name.c").write_text(
        '#include "net.h"\n#include <string.h>\n'
        "int main(void) { return strcmp(net_input(0)->name, NET_INPUT_0_NAME); }\n"
    )
    HOST.build(here, ["name.c", "net.o"], "name", *STRICT)
    HOST.run(here, "./name")
    data = (here / "net.o").read_bytes()
    assert 'x*/"\\\u00fc%s'.encode() + b"\0" in data


def test_constants_and_functions_say_the_same(here: Path) -> None:
    several().compiled("host").save("net.o")
    (here / "ask.c").write_text(_ASK)
    HOST.build(here, ["ask.c", "net.o"], "ask", *STRICT)
    HOST.run(here, "./ask")


_ASK = r"""
#include "net.h"
#include <string.h>
#define SAME(a, b) if ((a) != (b)) return __LINE__
int main(void) {
  const size_t dims[] = NET_OUTPUT_2_DIMS;
  SAME(NET_INPUT_COUNT, 2); SAME(net_input_count(), 2);
  SAME(NET_OUTPUT_COUNT, 3); SAME(net_output_count(), 3);
  SAME(net_input(-1), NULL); SAME(net_input(2), NULL); SAME(net_output(3), NULL);
  SAME(strcmp(net_input(0)->name, NET_INPUT_0_NAME), 0);
  SAME(strcmp(NET_INPUT_0_NAME, "left/image"), 0);
  SAME(net_output(2)->rank, NET_OUTPUT_2_RANK);
  SAME(net_output(2)->dims[0], dims[0]); SAME(net_output(2)->dims[1], dims[1]);
  SAME(dims[0], 3); SAME(dims[1], 9);
  SAME(net_output(2)->bytes, NET_OUTPUT_2_BYTES); SAME(NET_OUTPUT_2_BYTES, 3 * 9 * 4);
  SAME(NET_OUTPUT_2_ELEMENTS, 27);
  SAME(net_output(2)->dtype, NET_FLOAT32); SAME(NET_OUTPUT_2_DTYPE, NET_FLOAT32);
  SAME(net_output(2)->scale, 0.0); SAME(net_output(2)->zero_point, 0);
  SAME(net_workspace_bytes(), NET_WORKSPACE_BYTES);
  SAME(net_workspace_alignment(), NET_WORKSPACE_ALIGNMENT);
  SAME(strcmp(net_cpu_features(), NET_CPU_FEATURES), 0);
  SAME(strcmp(net_error(NET_OK), "no error"), 0);
  SAME(strcmp(net_error(-1), "unknown error code"), 0);
  SAME(strcmp(net_error(NET_ERROR_CPU + 1), "unknown error code"), 0);
  return 0;
}
"""


def test_quantized_inputs_and_outputs_have_scale_and_zero_point() -> None:
    graph, _ = small_net()
    model = codegen(graph).variants[0].model
    interface = describe(model, "net", quantizations={"x": (0.25, 128), "y": (0.5, -3)})
    text = header_text(interface)
    assert "#define NET_INPUT_0_SCALE 0.25\n#define NET_INPUT_0_ZERO_POINT 128\n" in text
    assert "#define NET_OUTPUT_0_SCALE 0.5\n#define NET_OUTPUT_0_ZERO_POINT -3\n" in text


def test_the_numbers_of_dtypes_are_those_of_onnx() -> None:
    for name, element in ELEMENT_TYPES.items():
        dtype = onnx.helper.tensor_dtype_to_np_dtype(element.number)
        assert dtype.itemsize == element.bytes
        assert str(dtype) == name


def test_a_weights_file_belongs_to_its_model(here: Path) -> None:
    several().compiled("host").save(here / "other.o")
    made = small_cnn().compiled("host")
    made.save(here / "net.o", weights_file=True)
    assert {"net.o", "net.h", "net_example.c", "net.weights"} <= names(here)
    HOST.build(here, ["net_example.c", "net.o"], "program", *STRICT)
    HOST.run(here, "./program")
    whole = (here / "net.weights").read_bytes()
    changed = bytes([whole[8] ^ 1])
    for damaged in (whole[:8] + changed + whole[9:], b"\0" * len(whole)):
        (here / "net.weights").write_bytes(damaged)
        assert "not the weights of this model" in HOST.run(here, "./program", code=1).stderr
    listed = subprocess.run(["size", "-A", "net.o"], cwd=here, capture_output=True, text=True)
    assert "qcc_weights" not in listed.stdout
