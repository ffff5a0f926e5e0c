"""Reads a published config field by field. Unknown fields are rejected by name."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, TypeGuard

from hybrid_core.validation import MAX_LAYERS, SpecError, short

# Fields that change no number here: transformers' own fields, those of training and generation,
# choices between implementations with equal results, and fields that no class reads. (Mamba-2 has
# no rank. Its norm is after the gate, regardless of `norm_before_gate`.)
_NO_EFFECT = """
    architectures attn_implementation auto_map chunk_size_feed_forward dtype id2label
    is_encoder_decoder label2id output_attentions output_hidden_states problem_type return_dict
    tokenizer_class torch_dtype transformers_version use_cache
    attention_dropout initializer_range rescale_prenorm_residual z_loss_coefficient
    output_router_logits router_aux_loss_coef
    time_step_floor time_step_init_scheme time_step_max time_step_min time_step_scale
    bos_token_id eos_token_id pad_token_id unk_token_id max_position_embeddings num_logits_to_keep
    pretraining_tp residual_in_fp32 use_associative_scan use_mamba_kernels use_mambapy
    mamba_dt_rank norm_before_gate time_step_rank
"""
NO_EFFECT = frozenset(_NO_EFFECT.split())
REQUIRED = object()
MAX_COUNT = 10_000_000


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number. Booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: Any) -> TypeGuard[float]:
    """Whether a value is a number. Booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def quoted(values: Iterable[Any]) -> str:
    """The allowed values as an error line lists them."""
    return " or ".join(map(repr, values))


class Fields:
    """The fields of a config. A family's reader takes the fields that its class computes with, and
    `close` rejects those that were not taken.

    `constants`: fields that change the computation but no cost (ArchSpec.constants).
    `absent`: the class's defaults for fields that the config does not have."""

    def __init__(self, fields: Mapping[str, Any], prefix: str = "") -> None:
        self._fields = fields
        self.absent: Mapping[str, Any] = {}
        self._prefix = prefix
        self._taken: set[str] = set()
        self.constants: dict[str, Any] = {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def __contains__(self, key: str) -> bool:
        return self._fields.get(key) is not None

    def refuse(self, key: str, rule: str) -> SpecError:
        """The error to raise for a field: its key, its value and the rule."""
        value = short(self._fields[key]) if key in self._fields else "missing"
        return SpecError(f"{self._prefix}{key}: {value} - {rule}")

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """The field's value, which may be null. An absent field gets the class's default, or else
        the given one."""
        self._taken.add(key)
        if key in self._fields:
            return self._fields[key]
        value = self.absent.get(key, default)
        if value is REQUIRED:
            raise self.refuse(key, "this field is required")
        return value

    def count(
        self,
        key: str,
        default: Any = REQUIRED,
        least: int = 1,
        most: int = MAX_COUNT,
    ) -> int:
        """A whole number from `least` to `most`; null means the default."""
        value = self.take(key, default)
        if value is None and default is not REQUIRED:
            value = default
        rule = "a positive whole number" if least else "a whole number, not negative"
        if not is_whole(value) or value < least:
            raise self.refuse(key, f"must be {rule}")
        if value > most:
            raise self.refuse(key, f"must be {rule} up to {most:,}")
        return value

    def layers(self, key: str = "num_hidden_layers", default: Any = REQUIRED) -> int:
        """A number of layers. The upper bound is checked here, because readers build lists with one
        entry per layer."""
        return self.count(key, default, most=MAX_LAYERS)

    def number(self, key: str, default: float) -> float:
        """A finite number above 0; null means the default."""
        value = self.take(key, default)
        if value is None:
            value = default
        if not is_real(value) or not isfinite(value) or value <= 0:
            raise self.refuse(key, "must be a finite number above 0")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false. Null is false, as in the classes' own `if` statements."""
        value = self.take(key, default)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise self.refuse(key, "must be true or false")
        return value

    def word(
        self,
        key: str,
        names: Mapping[str, str],
        default: str,
    ) -> str:
        """The value in `names` for a name in the config."""
        value = self.take(key, default)
        if not isinstance(value, str) or value not in names:
            raise self.refuse(key, f"must be {quoted(names)}")
        return names[value]

    def must(self, key: str, *allowed: Any) -> None:
        """Reject all values except those allowed. The first is also the default.

        Null passes unless the first is True, because the classes' own `if` statements treat null as
        false."""
        value = self.take(key, allowed[0])
        if value is None and allowed[0] is not True:
            return
        if value not in allowed:
            raise self.refuse(key, f"must be {quoted(allowed)}")

    def indices(
        self,
        key: str,
        n_layers: int,
        first: int = 0,
    ) -> list[int]:
        """Indices of layers, checked to exist. Empty if the field is absent or null."""
        value = self.take(key, None) or []
        if not isinstance(value, list):
            raise self.refuse(key, "must be a list")
        if not all(map(is_whole, value)):
            raise self.refuse(key, "must be a list of layer numbers")
        last = n_layers - 1 + first
        for index in value:
            if not first <= index <= last:
                raise self.refuse(key, f"layer {index} is not one of {first} to {last}")
        return value

    def kinds(
        self,
        key: str,
        n_layers: int,
        names: Mapping[str, str],
        of: str = "num_hidden_layers",
    ) -> str | None:
        """A letter per layer, from a list of names or a string of symbols. None if the field is
        absent or null."""
        value = self.take(key, None)
        if value is None:
            return None
        if not isinstance(value, list | str):
            raise self.refuse(key, "must be a list with one name per layer")
        if len(value) != n_layers:
            raise self.refuse(key, f"has {len(value)} entries, must have {of} ({n_layers})")
        for name in value:
            if not isinstance(name, str) or name not in names:
                raise self.refuse(key, f"{short(name)} is not one of {', '.join(names)}")
        return "".join(names[name] for name in value)

    def constant(self, key: str, *neutral: Any) -> None:
        """Keep a field that changes the computation but no cost. Null and the `neutral` values
        change nothing. The first `neutral` value is the default."""
        default = neutral[0] if neutral else None
        value = self.take(key, default)
        if value is not None and value not in neutral:
            self.constants[self._prefix + key] = value

    def ignore(self, names: str) -> None:
        """Accept fields that change nothing in this family."""
        self._taken |= set(names.split())

    def section(self, key: str) -> "Fields":
        """The fields of a nested mapping. Empty if the field is absent or null."""
        fields = self.take(key, None)
        if not isinstance(fields, Mapping | None):
            raise self.refuse(key, "must be a mapping")
        return Fields(fields or {}, f"{self._prefix}{key}.")

    def close(self) -> None:
        """Reject a field that was not taken, unless it is known to change nothing. Names of
        transformers' internal fields start with _."""
        known = self._taken | NO_EFFECT
        for key in self._fields:
            if key not in known and not key.startswith("_"):
                raise self.refuse(key, "unknown field, which may change what the model computes")


def every(
    n_layers: int,
    period: int,
    offset: int,
    there: str,
    elsewhere: str,
) -> str:
    """A letter per layer: `there` in every `period`-th layer, starting with layer `offset`."""
    chosen = [i for i in range(n_layers) if i % period == offset]
    return at(n_layers, chosen, there, elsewhere)


def at(
    n_layers: int,
    chosen: Sequence[int],
    there: str,
    elsewhere: str,
) -> str:
    """A letter per layer: `there` in the chosen layers, numbered from 0."""
    letters = [elsewhere] * n_layers
    for index in chosen:
        if index < n_layers:
            letters[index] = there
    return "".join(letters)
