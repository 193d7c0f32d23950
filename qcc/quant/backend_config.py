"""BackendConfig: everything that a backend says about itself, said once.

A backend is one frozen value; each :class:`BackendPatternConfig` in it is read by fusion selection
(pattern and check), observer insertion (observation type, dtype configs, roles), lowering (the
integer op) and the generated tests.  Names follow torch.ao.quantization.backend_config
(torch 2.13); setters return new values.  Patterns and checks are code: JSON names them, and reading
takes them from entries that are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any, TypeAlias

from qcc.errors import ConfigError
from qcc.quant.dtype_config import DTypeConfig
from qcc.quant.json_text import check_keys, read_object, write_object
from qcc.quant.observers.base import ObserverSpec
from qcc.quant.qconfig import QConfig
from qcc.quant.qconfig_mapping import QConfigMapping, mapping_of

FORMAT = "qcc.backend_config"

Check: TypeAlias = "Callable[[Any], str | None]"
"""Looks at a match of the pattern; gives the sentence why the backend refuses it, or None."""

WeightAxis: TypeAlias = "int | Callable[[Any], int] | None"
"""The output-channel axis of a weight: fixed, or found from the match; None for per-tensor only."""

FloatRoles: TypeAlias = "tuple[str, ...] | Callable[[Any], tuple[str, ...]]"
"""The operands that a group reads as float32: fixed, or found from the match."""


class Placement(Enum):
    """Where quantize and dequantize stand around the groups of a model."""

    BEHIND_PRODUCERS = "behind_producers"
    """A value that a group computes exists in 8 bits only: float readers, too, read those."""
    BEFORE_READERS = "before_readers"
    """Only readers that want 8 bits read them; float readers and the caller get the float value.

    For runtimes that fuse by themselves what stands between a layer and the next quantization.
    """

    def __repr__(self) -> str:
        return f"Placement.{self.name}"


class ObservationType(Enum):
    """How a pattern's output gets its parameters."""

    OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT = "output_use_different_observer_as_input"
    """The output has an observer of its own (conv, add, ...)."""
    OUTPUT_SHARE_OBSERVER_WITH_INPUT = "output_share_observer_with_input"
    """The output has the parameters of the input (max pool, reshape, concat, ...)."""
    INPUT_OUTPUT_NOT_OBSERVED = "input_output_not_observed"
    """Neither is quantized (shape, size)."""

    def __repr__(self) -> str:
        return f"ObservationType.{self.name}"


@dataclass(frozen=True, repr=False)
class BackendPatternConfig:
    """A pattern that the backend runs on integers.

    ``name``: unique in the backend, stable in files; ``pattern``: a traced pattern, opaque here;
    ``dtype_configs``: the combinations it has kernels for, the preferred one first;
    ``lowering``: the integer op it becomes (``"q.conv"``), None when it only moves data in Q/DQ
    form; ``check``: an extra condition on a match.

    Roles name the pattern's variables: ``weight_role`` and ``bias_role`` the constant weight and
    bias, ``weight_axis`` the weight's output-channel axis, ``shared_inputs`` the inputs that must
    have one set of parameters (with the output too when that is shared).  ``fixed_output``: scale
    and zero point that the output always has.  ``num_tensor_args_to_observation_type``: pairs that
    replace the observation type for that many non-constant inputs (add with a scalar).
    ``float_roles``: operands that the group reads as float32, which is then no reason to quantize.
    """

    name: str
    pattern: Any
    observation_type: ObservationType = ObservationType.OUTPUT_USE_DIFFERENT_OBSERVER_AS_INPUT
    dtype_configs: tuple[DTypeConfig, ...] = ()
    lowering: str | None = None
    check: Check | None = None
    weight_role: str | None = None
    weight_axis: WeightAxis = None
    bias_role: str | None = None
    shared_inputs: tuple[str, ...] = ()
    fixed_output: tuple[float, int] | None = None
    num_tensor_args_to_observation_type: tuple[tuple[int, ObservationType], ...] = ()
    float_roles: FloatRoles = ()

    def __post_init__(self) -> None:
        """Check what can be checked without the pattern; raises ConfigError."""
        if not self.name:
            raise ConfigError("a backend pattern needs a name")
        if self.weight_role is None and self.weight_axis is not None:
            raise ConfigError(f"pattern '{self.name}' has a weight_axis but no weight_role")

    def set_pattern(self, pattern: Any) -> BackendPatternConfig:
        """The same entry with another pattern."""
        return replace(self, pattern=pattern)

    def set_observation_type(self, observation_type: ObservationType) -> BackendPatternConfig:
        """The same entry with another observation type."""
        return replace(self, observation_type=observation_type)

    def add_dtype_config(self, dtype_config: DTypeConfig) -> BackendPatternConfig:
        """The same entry with one more combination, after the others."""
        return replace(self, dtype_configs=(*self.dtype_configs, dtype_config))

    def set_dtype_configs(self, dtype_configs: Iterable[DTypeConfig]) -> BackendPatternConfig:
        """The same entry with other combinations."""
        return replace(self, dtype_configs=tuple(dtype_configs))

    def observation_type_for(self, tensor_inputs: int) -> ObservationType:
        """The observation type when ``tensor_inputs`` of the inputs are not constant."""
        table = dict(self.num_tensor_args_to_observation_type)
        return table.get(tensor_inputs, self.observation_type)

    def supports(self, qconfig: QConfig, output: ObserverSpec | None = None) -> DTypeConfig | str:
        """The first combination that serves ``qconfig``, or the sentence that says why none does.

        ``output`` observes the output where that is not ``qconfig.activation``.
        """
        refusals: list[str] = []
        for config in self.dtype_configs:
            sentence = config.refusal(qconfig, output)
            if sentence is None:
                return config
            if sentence not in refusals:
                refusals.append(sentence)
        if not refusals:
            return f"pattern '{self.name}' has no dtype config"
        return f"pattern '{self.name}' does not take this QConfig: {'; and '.join(refusals)}"

    def __repr__(self) -> str:
        return _shown(self, required=("name", "pattern"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON data: all but the pattern, the check and a computed weight axis."""
        data: dict[str, Any] = {
            "name": self.name,
            "observation_type": self.observation_type.value,
            "dtype_configs": [config.to_dict() for config in self.dtype_configs],
            "lowering": self.lowering,
            "weight_role": self.weight_role,
            "bias_role": self.bias_role,
            "shared_inputs": list(self.shared_inputs),
            "fixed_output": None if self.fixed_output is None else list(self.fixed_output),
            "num_tensor_args_to_observation_type": [
                [count, kind.value] for count, kind in self.num_tensor_args_to_observation_type
            ],
        }
        if not callable(self.weight_axis):
            data["weight_axis"] = self.weight_axis
        if not callable(self.float_roles):
            data["float_roles"] = list(self.float_roles)
        return data

    def with_dict(self, data: Any) -> BackendPatternConfig:
        """This entry's code with the data of a :meth:`to_dict`; raises ConfigError if malformed."""
        what = f"pattern '{self.name}'"
        check_keys(data, tuple(f.name for f in fields(self)), what)
        changes: dict[str, Any] = {}
        for key in data.keys() - {"name"}:
            if key not in _DECODERS:
                raise ConfigError(f"{what}: '{key}' is code and cannot be read from JSON")
            try:
                changes[key] = _DECODERS[key](data[key])
            except (TypeError, ValueError, IndexError) as error:
                raise ConfigError(f"{what}: '{key}' is malformed ({error})") from None
        return replace(self, **changes)


def _text_or_none(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"it must be a string or null, not {value!r}")


def _integer_or_none(value: Any) -> int | None:
    return None if value is None else int(value)


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "lowering": _text_or_none,
    "weight_role": _text_or_none,
    "weight_axis": _integer_or_none,
    "bias_role": _text_or_none,
    "observation_type": ObservationType,
    "dtype_configs": lambda items: tuple(DTypeConfig.from_dict(item) for item in items),
    "shared_inputs": lambda names: tuple(str(name) for name in names),
    "float_roles": lambda names: tuple(str(name) for name in names),
    "fixed_output": lambda pair: None if pair is None else (float(pair[0]), int(pair[1])),
    "num_tensor_args_to_observation_type": lambda pairs: tuple(
        (int(count), ObservationType(kind)) for count, kind in pairs
    ),
}
"""How the entries of a pattern's JSON data become fields."""


@dataclass(frozen=True)
class Speeds:
    """What one core of a backend's target does in a nanosecond, roughly.

    ``int8_macs`` and ``float_macs``: multiply-accumulates of layers with weights; ``int8_elements``
    and ``float_elements``: elements that arithmetic without weights reads and writes;
    ``conversions``: elements that are quantized or dequantized.  Raises ConfigError unless all are
    positive.
    """

    int8_macs: float
    float_macs: float
    int8_elements: float
    float_elements: float
    conversions: float

    def __post_init__(self) -> None:
        """Check the figures."""
        if min(vars(self).values()) <= 0:
            raise ConfigError(f"speeds must be positive, not {self}")

    @classmethod
    def from_dict(cls, data: Any) -> Speeds:
        """From the fields as a dict; raises ConfigError for others."""
        names = [f.name for f in fields(cls)]
        if not isinstance(data, dict) or sorted(data) != sorted(names):
            raise ConfigError(f"speeds need exactly the numbers {', '.join(names)}")
        return cls(**{name: float(data[name]) for name in names})


@dataclass(frozen=True, repr=False)
class BackendConfig:
    """A backend: its name, its target, and what it runs on integers.

    ``target`` is an LLVM triple, or empty for a file format; ``features`` are the target's
    (``"avx2"``); ``patterns`` are tried in order, so a longer one comes before its parts;
    ``default_qconfig`` is what the backend runs best.  ``weight_pair_limit``: what the stored
    weights of two neighbouring input channels may sum to where they have one sign, on machines that
    add byte products in 16 bits (128 for uint8 activations); None where there is no such limit.
    ``speeds``: what parts of a model that would be slower in int8 are found by; None where that is
    the affair of another runtime.
    ``placement``: where quantize and dequantize stand.  ``fuses``: ops without a pattern that the
    runtime computes inside the kernels of their neighbours.  ``concat_shares_scale``: a Concat, its
    operands and whatever shares theirs have one scale.  ``keeps``: names of float passes that the
    backend does without.  ``export_passes``: a pass list for the numbered graph.
    ``equalizes_dense``: channels in front of dense convolutions are stretched, too, for backends
    whose activations have few steps.
    ``clamps_results``: kernels cut their results at the limits of a Relu or Clip; where they do
    not, such a node has to follow from the parameters of the result.  ``keeps_grids``: weights that
    lie on a grid of their own keep its step even where pairs of them pass the limit, since kernels
    look before they rely on it.  ``description``: the runtime in a few words, for lists of targets.
    Raises ConfigError for equal pattern names.
    """

    name: str
    target: str = ""
    features: tuple[str, ...] = ()
    patterns: tuple[BackendPatternConfig, ...] = ()
    default_qconfig: QConfig | None = None
    weight_pair_limit: int | None = None
    speeds: Speeds | None = None
    placement: Placement = Placement.BEHIND_PRODUCERS
    fuses: tuple[str, ...] = ()
    concat_shares_scale: bool = False
    keeps: tuple[str, ...] = ()
    export_passes: str = ""
    equalizes_dense: bool = False
    clamps_results: bool = True
    keeps_grids: bool = True
    description: str = ""

    def __post_init__(self) -> None:
        """Check the names; raises ConfigError."""
        names = [pattern.name for pattern in self.patterns]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"backend '{self.name}' has two patterns named '{twice}'")

    @property
    def configs(self) -> tuple[BackendPatternConfig, ...]:
        """The patterns, by torch's name."""
        return self.patterns

    def pattern(self, name: str) -> BackendPatternConfig:
        """The entry called ``name``; raises ConfigError when there is none."""
        for config in self.patterns:
            if config.name == name:
                return config
        raise ConfigError(f"backend '{self.name}' has no pattern '{name}'")

    def set_name(self, name: str) -> BackendConfig:
        """The same backend under another name."""
        return replace(self, name=name)

    def set_target(self, target: str, features: Iterable[str] = ()) -> BackendConfig:
        """The same backend for another LLVM triple and its features."""
        return replace(self, target=target, features=tuple(features))

    @property
    def default_mapping(self) -> QConfigMapping:
        """What the backend quantizes by where the caller says nothing.

        Raises ConfigError for a backend without a default QConfig.
        """
        if self.default_qconfig is None:
            raise ConfigError(
                f"the backend '{self.name}' has no default QConfig: give a QConfigMapping, or make "
                "the backend with set_default_qconfig"
            )
        return mapping_of(self.default_qconfig)

    def set_default_qconfig(self, qconfig: QConfig | None) -> BackendConfig:
        """The same backend with another default QConfig."""
        return replace(self, default_qconfig=qconfig)

    def set_backend_pattern_config(self, config: BackendPatternConfig) -> BackendConfig:
        """The backend with an entry added at the end, or replaced in place if its name is known."""
        table = {known.name: known for known in self.patterns}
        table[config.name] = config
        return replace(self, patterns=tuple(table.values()))

    def set_backend_pattern_configs(self, configs: Iterable[BackendPatternConfig]) -> BackendConfig:
        """The backend with several entries added or replaced."""
        result = self
        for config in configs:
            result = result.set_backend_pattern_config(config)
        return result

    def __repr__(self) -> str:
        return _shown(self, required=("name",))

    def to_json(self) -> str:
        """The backend as JSON text; patterns and checks are named, not written."""
        qconfig = self.default_qconfig
        data = {
            "name": self.name,
            "target": self.target,
            "features": list(self.features),
            "default_qconfig": None if qconfig is None else qconfig.to_dict(),
            "patterns": [pattern.to_dict() for pattern in self.patterns],
            "weight_pair_limit": self.weight_pair_limit,
            "speeds": None if self.speeds is None else asdict(self.speeds),
            "placement": self.placement.value,
            "fuses": list(self.fuses),
            "concat_shares_scale": self.concat_shares_scale,
            "keeps": list(self.keeps),
            "export_passes": self.export_passes,
            "equalizes_dense": self.equalizes_dense,
            "clamps_results": self.clamps_results,
            "keeps_grids": self.keeps_grids,
            "description": self.description,
        }
        return write_object(data, FORMAT)

    @classmethod
    def from_json(cls, text: str, known: Iterable[BackendPatternConfig]) -> BackendConfig:
        """What :meth:`to_json` wrote; the entries of ``known`` give pattern and check by name.

        Raises ConfigError for a bad text or a pattern that is not known.
        """
        data = read_object(text, FORMAT)
        check_keys(data, tuple(f.name for f in fields(cls)), f"a {FORMAT}")
        if not isinstance(data.get("name"), str):
            raise ConfigError(f"a {FORMAT} needs a 'name'")
        for key in ("features", "patterns", "fuses", "keeps"):
            if not isinstance(data.get(key, []), list):
                raise ConfigError(f"a {FORMAT}'s '{key}' must be a list")
        code = {pattern.name: pattern for pattern in known}
        qconfig, speeds = data.get("default_qconfig"), data.get("speeds")
        return cls(
            data["name"],
            str(data.get("target", "")),
            tuple(str(feature) for feature in data.get("features", ())),
            tuple(_entry(item, code) for item in data.get("patterns", ())),
            None if qconfig is None else QConfig.from_dict(qconfig),
            _integer_or_none(data.get("weight_pair_limit")),
            None if speeds is None else Speeds.from_dict(speeds),
            _placement(data.get("placement", Placement.BEHIND_PRODUCERS.value)),
            tuple(str(op) for op in data.get("fuses", ())),
            bool(data.get("concat_shares_scale", False)),
            tuple(str(name) for name in data.get("keeps", ())),
            str(data.get("export_passes", "")),
            bool(data.get("equalizes_dense", False)),
            bool(data.get("clamps_results", True)),
            bool(data.get("keeps_grids", True)),
            str(data.get("description", "")),
        )


def _placement(text: Any) -> Placement:
    try:
        return Placement(text)
    except ValueError:
        known = ", ".join(item.value for item in Placement)
        raise ConfigError(f"there is no placement {text!r}: use one of {known}") from None


def _entry(data: Any, code: dict[str, BackendPatternConfig]) -> BackendPatternConfig:
    name = data.get("name") if isinstance(data, dict) else None
    if name not in code:
        raise ConfigError(
            f"there is no pattern '{name}' at hand: use one of {', '.join(code) or 'none'}"
        )
    return code[name].with_dict(data)


def _shown(config: Any, required: tuple[str, ...]) -> str:
    """A config as valid input: fields that differ from their defaults, code by its name."""
    parts = []
    for f in fields(config):
        value = getattr(config, f.name)
        if f.name in required:
            parts.append(getattr(value, "__name__", None) or repr(value))
        elif value != f.default:
            parts.append(f"{f.name}={getattr(value, '__name__', None) or repr(value)}")
    return f"{type(config).__name__}({', '.join(parts)})"
