"""Tables of fields: the config's key for each attribute of a part, and how its value is read.

One table serves three purposes. It reads a config, writes one, and puts the config's own keys into
error messages (config_keys.py). So each pair of names is defined only once per family."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from hybrid_core.interop.fields import REQUIRED, Fields

Section = dict[str, Any]
Take = Callable[[Fields, str, Any], Any]


class Field(NamedTuple):
    """One field of a config.

    `ours`: the attribute of our part, dotted if it is inside another part (`attention.n_heads`).
    `key`: the config's name for it. `take`: how the value is checked; None if the family's reader
    derives it. `default`: the value if the field is absent or null. `older`: names that the class
    also accepts, the preferred one first."""

    ours: str
    key: str
    take: Take | None = None
    default: Any = REQUIRED
    older: tuple[str, ...] = ()


class Table:
    """The fields of a config that describe one part of a design.

    If two attributes share a key, the config is written from the last one."""

    def __init__(self, *fields: Field) -> None:
        self.fields = {field.ours: field for field in fields}

    def __or__(self, other: "Table") -> "Table":
        """Both tables. If both have the same attribute, the other's field takes precedence."""
        return Table(*(self.fields | other.fields).values())

    def read(self, c: Fields, **defaults: Any) -> Section:
        """Our attributes with the config's values. `defaults`: those that a family derives from
        other fields."""
        section: Section = {}
        for ours, field in self.fields.items():
            if field.take is None:
                continue
            value = defaults.get(ours, field.default)
            for key in (*reversed(field.older), field.key):
                value = field.take(c, key, value)
            section[ours] = value
        return section

    def inside(self, path: str) -> "Table":
        """The table of a part that is inside another: `attention.n_heads` for `n_heads`."""
        fields = self.fields.values()
        return Table(*(field._replace(ours=f"{path}.{field.ours}") for field in fields))


Tables = Mapping[type[Any], Table]  # by type of part; ArchSpec is for everything outside the layers


# ---------------------------------------------------------------- kinds of field


def count(
    ours: str,
    key: str,
    default: Any = REQUIRED,
    older: tuple[str, ...] = (),
    least: int = 1,
) -> Field:
    """A whole number of at least `least`."""
    return Field(ours, key, partial(Fields.count, least=least), default, older)


def number(
    ours: str,
    key: str,
    default: Any = REQUIRED,
    older: tuple[str, ...] = (),
) -> Field:
    """A finite number above 0."""
    return Field(ours, key, Fields.number, default, older)


def flag(
    ours: str,
    key: str,
    default: bool = False,
    older: tuple[str, ...] = (),
) -> Field:
    """True or false."""
    return Field(ours, key, Fields.flag, default, older)


def optional_count(ours: str, key: str) -> Field:
    """A whole number, or None if the config has none."""
    return Field(ours, key, _count_or_none, None)


def _count_or_none(c: Fields, key: str, default: Any) -> int | None:
    return c.count(key) if key in c else c.take(key, default)


# transformers' name of an activation -> ours
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu2": "relu2",
}


def activation(key: str, default: str = "silu") -> Field:
    """The activation of a feed-forward; `default` is transformers' name."""
    return Field("activation", key, _activation, default)


def _activation(c: Fields, key: str, default: str) -> str:
    return c.word(key, ACTIVATIONS, default)


def derived(ours: str, key: str) -> Field:
    """A field that the table only writes, because the family's reader derives the attribute
    itself."""
    return Field(ours, key)


# ---------------------------------------------------------------- tables that families share


def model(eps_key: str, eps: float = 1e-5, tied: bool = False) -> Table:
    """Everything outside the layers. `eps` and `tied` are the class's defaults."""
    return Table(
        count("vocab_size", "vocab_size"),
        count("d_model", "hidden_size"),
        number("norm_eps", eps_key, eps),
        flag("tie_embeddings", "tie_word_embeddings", tied),
        Field("n_layers", "num_hidden_layers", Fields.layers),
    )


HEADS = Table(
    count("n_heads", "num_attention_heads"),
    count("n_kv_heads", "num_key_value_heads"),
)
BIASES = Table(
    flag("out_bias", "attention_bias"),
    flag("qkv_bias", "attention_bias"),
)
HEAD_DIM = Table(count("head_dim", "head_dim"))
ATTENTION = HEADS | BIASES | HEAD_DIM
GATED = Table(
    count("d_ff", "intermediate_size"),
    activation("hidden_act"),
)
GATED_BIASED = GATED | Table(flag("bias", "mlp_bias"))
TOP_K = Table(count("top_k", "num_experts_per_tok", 2))
# The Mamba-1 of Jamba and Zamba.
MAMBA1 = Table(
    count("d_state", "mamba_d_state", 16),
    count("d_conv", "mamba_d_conv", 4),
    derived("dt_rank", "mamba_dt_rank"),
    flag("proj_bias", "mamba_proj_bias"),
    flag("conv_bias", "mamba_conv_bias", True),
)
# The Mamba-2 of Bamba, Granite and Falcon-H1.
MAMBA2 = Table(
    count("d_state", "mamba_d_state", 256),
    count("d_conv", "mamba_d_conv", 4),
    count("n_groups", "mamba_n_groups", 1),
    count("chunk_size", "mamba_chunk_size", 256),
    derived("n_heads", "mamba_n_heads"),
    derived("head_dim", "mamba_d_head"),
    flag("conv_bias", "mamba_conv_bias", True),
    flag("out_bias", "mamba_proj_bias"),
    flag("in_bias", "mamba_proj_bias"),
)
