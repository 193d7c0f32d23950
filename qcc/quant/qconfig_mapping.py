"""QConfigMapping: which node is quantized how, or not at all.

As torch.ao.quantization.QConfigMapping (torch 2.13), with ONNX op types for object types and scopes
of node names for modules.  Every setter returns a new mapping.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from qcc.errors import ConfigError
from qcc.quant.json_text import check_keys, list_of, read_object, write_object
from qcc.quant.observers.base import UniformArguments
from qcc.quant.observers.entropy import EntropyObserver
from qcc.quant.observers.histogram import HistogramObserver
from qcc.quant.observers.minmax import MinMaxObserver, MovingAverageMinMaxObserver
from qcc.quant.observers.mse import MSEObserver
from qcc.quant.observers.percentile import PercentileObserver
from qcc.quant.qconfig import FIXED_RANGE_OPS, QConfig, fixed_qparams_qconfig, get_default_qconfig

MaybeQConfig: TypeAlias = "QConfig | None"
"""A QConfig, or None: leave the node in float."""

Rule: TypeAlias = "tuple[str, MaybeQConfig]"
OrderRule: TypeAlias = "tuple[str, str, int, MaybeQConfig]"

FORMAT = "qcc.qconfig_mapping"


@dataclass(frozen=True, repr=False)
class QConfigMapping:
    """Rules from nodes to QConfigs, in increasing priority (None means: do not quantize):

    1. ``set_global``: every node;
    2. ``set_object_type``: the nodes of an op type;
    3. ``set_module_name_regex``: the nodes whose name matches; the first registered match wins;
    4. ``set_module_name``: a node, or all nodes of a scope; the longest name wins;
    5. ``set_module_name_object_type_order``: the k-th node of an op type in a scope.

    Scopes are the parts of a node's name between ``/`` (or ``.``): ``layer1.0`` and ``/layer1/0``
    are the scope that holds ``/layer1/0/conv/Conv``.  Setting a key again replaces its value.
    """

    global_qconfig: MaybeQConfig = None
    object_type: tuple[Rule, ...] = ()
    module_name_regex: tuple[Rule, ...] = ()
    module_name: tuple[Rule, ...] = ()
    module_name_object_type_order: tuple[OrderRule, ...] = ()

    def set_global(self, qconfig: MaybeQConfig) -> QConfigMapping:
        """The mapping with a QConfig for every node that no other rule covers."""
        return replace(self, global_qconfig=_checked(qconfig))

    def set_object_type(self, op_type: str, qconfig: MaybeQConfig) -> QConfigMapping:
        """The mapping with a rule for an ONNX op type such as ``"Conv"``."""
        return replace(self, object_type=_put(self.object_type, (op_type,), qconfig))

    def set_module_name_regex(self, regex: str, qconfig: MaybeQConfig) -> QConfigMapping:
        """The mapping with a rule for node names that ``regex`` matches from their beginning.

        A leading ``/`` of a name need not be matched.  Raises ConfigError for a bad expression.
        """
        _compiled(regex)
        return replace(self, module_name_regex=_put(self.module_name_regex, (regex,), qconfig))

    def set_module_name(self, name: str, qconfig: MaybeQConfig) -> QConfigMapping:
        """The mapping with a rule for a node or for all nodes of a scope."""
        return replace(self, module_name=_put(self.module_name, (name,), qconfig))

    def set_module_name_object_type_order(
        self, name: str, op_type: str, index: int, qconfig: MaybeQConfig
    ) -> QConfigMapping:
        """The mapping with a rule for the ``index``-th (from 0) ``op_type`` node in scope ``name``.

        The empty name is the scope of nodes that lie in none.
        """
        rules = _put(self.module_name_object_type_order, (name, op_type, index), qconfig)
        return replace(self, module_name_object_type_order=rules)

    def resolve(
        self,
        node_name: str,
        op_type: str,
        order_index_in_scope: int | None = None,
        scope: str | None = None,
    ) -> MaybeQConfig:
        """The QConfig of a node, or None when it stays float.

        ``order_index_in_scope`` counts the nodes of this op type before it in ``scope``, which
        defaults to the parent of ``node_name``; without an index order rules do not apply.
        """
        parts = scope_parts(node_name)
        home = parts[:-1] if scope is None else scope_parts(scope)
        for name, wanted_type, index, qconfig in self.module_name_object_type_order:
            if (wanted_type, index) == (op_type, order_index_in_scope) and (
                scope_parts(name) == home
            ):
                return qconfig
        by_name = {scope_parts(name): qconfig for name, qconfig in self.module_name}
        for length in range(len(parts), 0, -1):
            if parts[:length] in by_name:
                return by_name[parts[:length]]
        for regex, qconfig in self.module_name_regex:
            pattern = _compiled(regex)
            if pattern.match(node_name) or pattern.match(node_name.lstrip("/")):
                return qconfig
        return dict(self.object_type).get(op_type, self.global_qconfig)

    def to_json(self) -> str:
        """The mapping as JSON text."""
        data = {
            "global": _to_data(self.global_qconfig),
            "object_type": [[*key, _to_data(q)] for *key, q in self.object_type],
            "module_name_regex": [[*key, _to_data(q)] for *key, q in self.module_name_regex],
            "module_name": [[*key, _to_data(q)] for *key, q in self.module_name],
            "module_name_object_type_order": [
                [*key, _to_data(q)] for *key, q in self.module_name_object_type_order
            ],
        }
        return write_object(data, FORMAT)

    @classmethod
    def from_json(cls, text: str) -> QConfigMapping:
        """What :meth:`to_json` wrote; parts may be missing.  Raises ConfigError for a bad text."""
        data = read_object(text, FORMAT)
        check_keys(data, ("global", *_SETTERS), f"a {FORMAT}")
        mapping = cls().set_global(_from_data(data.get("global")))
        for section, (setter, kinds) in _SETTERS.items():
            for *key, qconfig in list_of(data.get(section, []), len(kinds) + 1, section):
                if not all(type(k) is kind for k, kind in zip(key, kinds, strict=True)):
                    names = ", ".join(kind.__name__ for kind in kinds)
                    raise ConfigError(f"an entry of {section} starts with {names}, got {key}")
                mapping = setter(mapping, *key, _from_data(qconfig))
        return mapping

    def __repr__(self) -> str:
        calls = [] if self.global_qconfig is None else [f"set_global({self.global_qconfig!r})"]
        for section, (setter, _) in _SETTERS.items():
            calls += [
                f"{setter.__name__}({', '.join(map(repr, rule))})"
                for rule in getattr(self, section)
            ]
        return ".".join(["QConfigMapping()", *calls])


_SETTERS: dict[str, tuple[Any, tuple[type, ...]]] = {
    "object_type": (QConfigMapping.set_object_type, (str,)),
    "module_name_regex": (QConfigMapping.set_module_name_regex, (str,)),
    "module_name": (QConfigMapping.set_module_name, (str,)),
    "module_name_object_type_order": (
        QConfigMapping.set_module_name_object_type_order,
        (str, str, int),
    ),
}
"""Each section of rules: its setter, and the types of a rule's key."""


def scope_parts(name: str) -> tuple[str, ...]:
    """The parts of a node's or scope's name: ``/layer1/0/conv`` and ``layer1.0.conv`` are equal."""
    return tuple(part for part in re.split(r"[/.]", name) if part)


def get_default_qconfig_mapping(backend: str = "x86") -> QConfigMapping:
    """The backend's default QConfig for all, with fixed parameters where an op's range is known.

    Raises ConfigError for an unknown backend.
    """
    return mapping_of(get_default_qconfig(backend))


def mapping_of(qconfig: QConfig) -> QConfigMapping:
    """``qconfig`` for all nodes, with fixed parameters where an op's range is known."""
    mapping = QConfigMapping().set_global(qconfig)
    for op_type in FIXED_RANGE_OPS:
        mapping = mapping.set_object_type(op_type, fixed_qparams_qconfig(op_type, qconfig))
    return mapping


ACTIVATION_OBSERVERS = {
    "minmax": MinMaxObserver,
    "moving-average": MovingAverageMinMaxObserver,
    "histogram": HistogramObserver,
    "percentile": PercentileObserver,
    "entropy": EntropyObserver,
    "mse": MSEObserver,
}
"""Short names of the observers that can watch any activation."""


def mapping_with_observer(observer: str, backend: str = "x86") -> QConfigMapping:
    """The default mapping of ``backend`` with another activation observer.

    ``observer`` is a key of :data:`ACTIVATION_OBSERVERS` or the observer's class name.  Raises
    ConfigError with the known names.
    """
    by_class = {kind.__name__: kind for kind in ACTIVATION_OBSERVERS.values()}
    kind = ACTIVATION_OBSERVERS.get(observer) or by_class.get(observer)
    if kind is None:
        known = ", ".join(ACTIVATION_OBSERVERS)
        raise ConfigError(f"there is no activation observer '{observer}': use one of {known}")
    default = get_default_qconfig(backend)
    spec = default.activation
    bounds: dict[str, Any] = {}
    arguments = spec.arguments
    if isinstance(arguments, UniformArguments) and arguments.quant_min is not None:
        bounds = {"quant_min": arguments.quant_min, "quant_max": arguments.quant_max}
    activation = kind.with_args(dtype=spec.dtype, qscheme=spec.qscheme, **bounds)
    return get_default_qconfig_mapping(backend).set_global(QConfig(activation, default.weight))


def _put(rules: tuple[Any, ...], key: tuple[Any, ...], qconfig: MaybeQConfig) -> tuple[Any, ...]:
    """``rules`` with the one of ``key`` replaced in place, or added at the end."""
    table = {tuple(k): q for *k, q in rules}
    table[key] = _checked(qconfig)
    return tuple((*k, q) for k, q in table.items())


def _checked(qconfig: Any) -> MaybeQConfig:
    if qconfig is None or isinstance(qconfig, QConfig):
        return qconfig
    raise ConfigError(f"a rule maps to a QConfig or to None (do not quantize), got {qconfig!r}")


def _compiled(regex: str) -> re.Pattern[str]:
    try:
        return re.compile(regex)
    except re.error as error:
        raise ConfigError(f"'{regex}' is not a regular expression: {error}") from None


def _to_data(qconfig: MaybeQConfig) -> dict[str, Any] | None:
    return None if qconfig is None else qconfig.to_dict()


def _from_data(data: Any) -> MaybeQConfig:
    return None if data is None else QConfig.from_dict(data)
