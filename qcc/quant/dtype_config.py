"""What a backend's op takes and gives: dtypes, and constraints on their parameters.

As ``DTypeWithConstraints`` and ``DTypeConfig`` of torch.ao.quantization.backend_config
(torch 2.13).  A check gives a sentence that says what does not fit, or None.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from qcc.errors import ConfigError
from qcc.numerics import STORAGE_RANGE
from qcc.quant.json_text import check_keys
from qcc.quant.observers.base import ObserverSpec
from qcc.quant.observers.fixed import FLOAT_DTYPES
from qcc.quant.qconfig import QConfig
from qcc.quant.qparams import QuantParams

OFFSET = (
    "the {}'s zero point may be other than 0, but the backend takes 0 alone: "
    "use a symmetric qscheme"
)


@dataclass(frozen=True)
class DTypeWithConstraints:
    """A dtype, and bounds that the parameters of a tensor of this dtype must keep.

    ``scale_exact_match`` and ``zero_point_exact_match`` go together and ask for a
    FixedQParamsObserver with these parameters.  ``symmetric`` (not in torch) asks for a zero point
    of 0.  Raises ConfigError for an unknown dtype.
    """

    dtype: str
    quant_min_lower_bound: int | None = None
    quant_max_upper_bound: int | None = None
    scale_min_lower_bound: float | None = None
    scale_max_upper_bound: float | None = None
    scale_exact_match: float | None = None
    zero_point_exact_match: int | None = None
    symmetric: bool = False

    def __post_init__(self) -> None:
        """Check the dtype and the pair of exact matches; raises ConfigError."""
        check_dtype(self.dtype)
        for f in fields(self)[1:-1]:
            value = getattr(self, f.name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | float)
            ):
                raise ConfigError(f"{f.name} must be a number or None, got {value!r}")
        if not isinstance(self.symmetric, bool):
            raise ConfigError(f"symmetric must be true or false, got {self.symmetric!r}")
        if (self.scale_exact_match is None) != (self.zero_point_exact_match is None):
            raise ConfigError("give scale_exact_match and zero_point_exact_match together")

    def spec_refusal(self, spec: ObserverSpec, role: str) -> str | None:
        """Why an observer cannot serve as ``role`` ("input", "weight", ...), or None.

        A constraint on a range or a least scale also refuses an observer that states none.
        """
        if spec.dtype != self.dtype:
            return f"the {role} is {spec.dtype}, but the backend takes {self.dtype}"
        sentences = (
            self._range_refusal(spec.quant_range, role),
            self._scale_refusal(spec, role),
            self._exact_refusal(spec.fixed, role),
            self._offset_refusal(spec, role),
        )
        return next((s for s in sentences if s is not None), None)

    def params_refusal(self, params: QuantParams, role: str) -> str | None:
        """Why a tensor of these parameters cannot serve as ``role``, or None."""
        if params.storage != self.dtype:
            return f"the {role} is {params.storage}, but the backend takes {self.dtype}"
        low, high = self.scale_min_lower_bound, self.scale_max_upper_bound
        if low is not None and min(params.scale) < low:
            return f"the {role}'s scale {min(params.scale)} is below the backend's least, {low}"
        if high is not None and max(params.scale) > high:
            return f"the {role}'s scale {max(params.scale)} is above the backend's greatest, {high}"
        if self.symmetric and any(params.zero_point):
            return OFFSET.format(role)
        stated = set(zip(params.scale, params.zero_point, strict=True))
        return self._range_refusal((params.quant_min, params.quant_max), role) or next(
            (s for pair in sorted(stated) if (s := self._exact_refusal(pair, role))), None
        )

    def _range_refusal(self, stated: tuple[int, int] | None, role: str) -> str | None:
        low, high = self.quant_min_lower_bound, self.quant_max_upper_bound
        if low is None and high is None:
            return None
        if stated is None:
            return f"the {role}'s observer states no range, but the backend limits it"
        if (low is not None and stated[0] < low) or (high is not None and stated[1] > high):
            allowed = f"[{'any' if low is None else low}, {'any' if high is None else high}]"
            return f"the {role}'s stored range {list(stated)} is not within the backend's {allowed}"
        return None

    def _scale_refusal(self, spec: ObserverSpec, role: str) -> str | None:
        low, high = self.scale_min_lower_bound, self.scale_max_upper_bound
        if low is not None:
            least = spec.eps if spec.fixed is None else spec.fixed[0]
            if least is None:
                return (
                    f"the {role}'s observer states no eps, but the backend's least scale is {low}"
                )
            if least < low:
                return f"the {role}'s eps {least} is below the backend's least scale, {low}"
        if high is not None and spec.fixed is not None and spec.fixed[0] > high:
            return f"the {role}'s scale {spec.fixed[0]} is above the backend's greatest, {high}"
        return None

    def _exact_refusal(self, stated: tuple[float, int] | None, role: str) -> str | None:
        if self.scale_exact_match is None:
            return None
        wanted = (np.float32(self.scale_exact_match), self.zero_point_exact_match)
        text = f"scale {self.scale_exact_match} and zero point {self.zero_point_exact_match}"
        if stated is None:
            return f"the {role} needs a FixedQParamsObserver with {text}"
        if (np.float32(stated[0]), stated[1]) != wanted:
            return (
                f"the {role} has the fixed scale {stated[0]} and zero point {stated[1]}, "
                f"but the backend needs {text}"
            )
        return None

    def _offset_refusal(self, spec: ObserverSpec, role: str) -> str | None:
        if not self.symmetric:
            return None
        scheme = spec.qscheme or ""
        fits = spec.fixed[1] == 0 if spec.fixed is not None else scheme.endswith("symmetric")
        return None if fits else OFFSET.format(role)

    def to_data(self) -> str | dict[str, Any]:
        """As JSON data: the dtype alone, or an object when there are constraints."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        stated = {k: v for k, v in data.items() if v is not None and v is not False}
        return self.dtype if len(stated) == 1 else stated

    @classmethod
    def from_data(cls, data: Any) -> DTypeWithConstraints:
        """What :meth:`to_data` wrote; raises ConfigError for anything else."""
        if isinstance(data, str):
            return cls(data)
        check_keys(data, tuple(f.name for f in fields(cls)), "a dtype with constraints")
        if "dtype" not in data:
            raise ConfigError("a dtype with constraints needs 'dtype'")
        return cls(**data)


@dataclass(frozen=True, repr=False)
class DTypeConfig:
    """One combination that an op has a kernel for; None means that anything will do.

    ``input``, ``output`` and ``weight`` are dtype names or :class:`DTypeWithConstraints` (a name
    becomes one without constraints); ``bias`` is the dtype that the bias is stored as.
    """

    input: DTypeWithConstraints | str | None = None
    output: DTypeWithConstraints | str | None = None
    weight: DTypeWithConstraints | str | None = None
    bias: str | None = None
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        """Turn names into constraints; raises ConfigError for an unknown dtype."""
        for role in ("input", "output", "weight"):
            value = getattr(self, role)
            if value is not None and not isinstance(value, DTypeWithConstraints):
                object.__setattr__(self, role, DTypeWithConstraints(value))
        if self.bias is not None:
            check_dtype(self.bias)

    def constraints(self, role: str) -> DTypeWithConstraints | None:
        """The constraints of ``"input"``, ``"output"`` or ``"weight"``; None when it is free."""
        value: DTypeWithConstraints | None = getattr(self, role)
        return value

    def refusal(self, qconfig: QConfig, output: ObserverSpec | None = None) -> str | None:
        """Why the combination does not serve ``qconfig``, or None.

        torch's rule: every dtype is equal and every constraint holds; ``output`` defaults to the
        QConfig's activation, or to float32 when that is dynamic.  The bias needs no observer: its
        parameters follow from input and weight.
        """
        if self.is_dynamic != qconfig.activation.is_dynamic:
            kinds = ("static", "dynamic")
            return (
                f"the activation is {kinds[qconfig.activation.is_dynamic]}, "
                f"but the backend's op is {kinds[self.is_dynamic]}"
            )
        return next(self._refusals(qconfig, output), None)

    def _refusals(self, qconfig: QConfig, output: ObserverSpec | None) -> Iterator[str]:
        specs = {"input": qconfig.activation, "weight": qconfig.weight}
        if output is not None or not qconfig.activation.is_dynamic:
            specs["output"] = qconfig.activation if output is None else output
        elif (wanted := self.constraints("output")) and wanted.dtype != "float32":
            yield f"a dynamic op's output is float32, but the backend's is {wanted.dtype}"
        for role, spec in specs.items():
            wanted = self.constraints(role)
            sentence = None if wanted is None else wanted.spec_refusal(spec, role)
            if sentence is not None:
                yield sentence

    def __repr__(self) -> str:
        """The config as valid input; a dtype without constraints prints as its name."""
        default = DTypeConfig()
        parts = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value == getattr(default, f.name):
                continue
            plain = isinstance(value, DTypeWithConstraints) and isinstance(value.to_data(), str)
            shown = value.dtype if plain else value
            parts.append(f"{f.name}={shown!r}")
        return f"DTypeConfig({', '.join(parts)})"

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; parts that are free are left out."""
        data: dict[str, Any] = {}
        for role in ("input", "output", "weight"):
            value = self.constraints(role)
            if value is not None:
                data[role] = value.to_data()
        if self.bias is not None:
            data["bias"] = self.bias
        if self.is_dynamic:
            data["is_dynamic"] = True
        return data

    @classmethod
    def from_dict(cls, data: Any) -> DTypeConfig:
        """What :meth:`to_dict` wrote; raises ConfigError for anything else."""
        check_keys(data, tuple(f.name for f in fields(cls)), "a dtype config")
        parts = dict(data)
        for role in ("input", "output", "weight"):
            if role in parts:
                parts[role] = DTypeWithConstraints.from_data(parts[role])
        return cls(**parts)


def check_dtype(dtype: str) -> None:
    """Raise ConfigError unless ``dtype`` names a stored or float type."""
    known = (*STORAGE_RANGE, *FLOAT_DTYPES)
    if dtype not in known:
        raise ConfigError(f"there is no dtype '{dtype}': use one of {', '.join(known)}")
