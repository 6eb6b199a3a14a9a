"""Recipe: which form each matrix takes, in which basis, and how its weights are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgert.bundle import Quantization
from edgert.devices import MATRICES, DeviceProfile
from edgert.errors import UsageError

from .checkpoint import Checkpoint
from .forms import Blocks, Float32, Form
from .matrix import EMBEDDING, Matrix, MatrixName, head_name
from .rows import Rows, joined


@dataclass(frozen=True)
class Recipe:
    """Forms by kind of matrix (`devices.MATRICES`), and by name for those that differ from their kind;
    `wide` are the 8-bit forms that a 4-bit recipe may give to some.

    `calibrated`: weights are rounded by what they multiply. `rotated`: in another basis, with `hadamard`
    inputs of down rotated together at run time, with `spread` such blocks with each other, too.
    """

    scheme: str
    forms: Mapping[str, Form]
    wide: Mapping[str, Form] = field(default_factory=dict)
    exceptions: Mapping[MatrixName, Form] = field(default_factory=dict)
    calibrated: bool = False
    rotated: bool = False
    hadamard: int = 0
    spread: bool = False

    @property
    def label(self) -> str:
        """The form of most matrices, as device profiles call it."""
        return self.forms["down"].label

    @property
    def has_rows(self) -> bool:
        """Whether some matrices are multiplied by whole integer products."""
        return any(isinstance(form, Rows) for form in (*self.forms.values(), *self.exceptions.values()))

    @property
    def flat(self) -> bool:
        """Whether most matrices of layers are multiplied so: layers are then best flat (see Builder)."""
        return isinstance(self.forms["down"], Rows)

    @property
    def unsigned(self) -> Recipe:
        """The same weights, read by whole products without a sign."""

        def read(form: Form) -> Form:
            return replace(form, unsigned=True) if isinstance(form, Rows) else form

        return replace(
            self,
            forms={kind: read(form) for kind, form in self.forms.items()},
            exceptions={name: read(form) for name, form in self.exceptions.items()},
        )

    def form(self, matrix: MatrixName) -> Form:
        """Before it is fitted to a number of columns."""
        return self.exceptions.get(matrix) or self.forms[_kind(matrix)]

    def fitted(self, name: MatrixName, matrix: Matrix) -> Form:
        """The form a matrix takes. Raises ValueError naming the matrix."""
        try:
            form = self.form(name).fitted(matrix.shape[1])
        except ValueError as error:
            raise ValueError(f"matrix '{name}': {error}") from error
        looked_up = name == EMBEDDING  # the head, too, if it is tied
        return form.only_multiplied() if isinstance(form, Rows) and not looked_up else form

    def bytes(self, matrices: Mapping[MatrixName, Matrix]) -> int:
        """What the matrices take on disk."""
        return sum(self.fitted(name, matrix).bytes(matrix.shape) for name, matrix in matrices.items())

    def quantization(self, matrices: Mapping[MatrixName, Matrix]) -> Quantization:
        """The recipe as a bundle's manifest tells it."""
        weights = sum(matrix.size for matrix in matrices.values())
        fitted = {_kind(name): self.fitted(name, matrix) for name, matrix in matrices.items()}
        blocks = {kind: fitted[kind] for kind in self.forms if kind in fitted}
        read = {kind: getattr(form, "blocks", form) for kind, form in blocks.items()}
        sizes = {kind: form.block_size for kind, form in read.items() if isinstance(form, Blocks)}
        levels = [form.accuracy_level for form in read.values() if isinstance(form, Blocks)]
        some = next(iter(self.forms.values()))
        return Quantization(
            scheme=self.scheme,
            bits=some.bits,
            block_size=sizes,
            accuracy_level=max(levels, default=0),
            exceptions={str(name): form.bits for name, form in self.exceptions.items()},
            bits_per_weight=round(self.bytes(matrices) * 8 / weights, 3),
            rounding="gptq" if self.calibrated else "nearest",
            rotated=self.rotated,
            hadamard=self.hadamard,
            spread=self.spread,
            columns_first=any(isinstance(form, Rows) and form.columns_first for form in fitted.values()),
        )

    def reading(self, other: Recipe) -> Recipe:
        """The same forms for weights that another recipe has written, rotated and rounded."""
        return replace(
            self,
            forms={kind: form.reading(other.forms[kind]) for kind, form in self.forms.items()},
            wide={kind: form.reading(other.wide[kind]) for kind, form in self.wide.items()},
            scheme=other.scheme,
            calibrated=other.calibrated,
            rotated=other.rotated,
            hadamard=other.hadamard,
            spread=other.spread,
        ).at_8_bits(other.exceptions)

    def at_8_bits(self, names: Iterable[MatrixName]) -> Recipe:
        """The same with some matrices in 8 bits."""
        wider = {name: self.wide[_kind(name)] for name in names}
        return replace(self, exceptions={**self.exceptions, **wider})


def _kind(matrix: MatrixName) -> str:
    """Its kind as device profiles have it: the embedding takes the head's form."""
    return "head" if matrix == EMBEDDING else matrix.kind


def shared(recipes: Sequence[Recipe]) -> Recipe:
    """One recipe whose weights all of these can read, in the basis that suits all. Raises ValueError."""
    first, *others = recipes
    for other in others:
        first = replace(
            first,
            forms={kind: joined(form, other.forms[kind]) for kind, form in first.forms.items()},
            wide={kind: joined(form, other.wide[kind]) for kind, form in first.wide.items()},
            calibrated=first.calibrated or other.calibrated,
            rotated=first.rotated or other.rotated,
            hadamard=max(first.hadamard, other.hadamard),
            spread=first.spread or other.spread,
        )
    return first


def fp32() -> Recipe:
    return Recipe("fp32", dict.fromkeys(MATRICES, Float32()))


def int8(profile: DeviceProfile, block_size: int | None = None) -> Recipe:
    """8 bits everywhere, in the form that a device is quickest with, or in blocks of `block_size` if given.

    Raises UsageError where blocks have no kernel.
    """
    wanted = profile.int8
    return Recipe(
        "int8",
        _forms(8, profile, block_size),
        calibrated=wanted.calibrate,
        rotated=wanted.rotate,
        hadamard=wanted.hadamard,
        spread=wanted.spread,
    )


def int4(profile: DeviceProfile, block_size: int | None = None) -> Recipe:
    """4 bits everywhere; where that isn't enough, the device's own 8-bit forms."""
    wanted = profile.int4
    return Recipe(
        "int4",
        _forms(4, profile, block_size),
        _forms(8, profile, None),
        calibrated=wanted.calibrate,
        rotated=wanted.rotate,
        hadamard=wanted.hadamard,
        spread=wanted.spread,
    )


def _forms(bits: int, profile: DeviceProfile, block_size: int | None) -> dict[str, Form]:
    wanted = profile.int8 if bits == 8 else profile.int4
    if wanted.form == "blocks":
        level, sizes = wanted.accuracy_level, wanted.block_size
        return {kind: Blocks(bits, block_size or size, level) for kind, size in sizes.items()}
    if block_size is None:
        return dict.fromkeys(MATRICES, Rows())
    if profile.is_slow("blocks8"):
        raise UsageError(f"--block-size: on {profile.name} 8 bits have one scale per row")
    return dict.fromkeys(MATRICES, Blocks(8, block_size, profile.int4.accuracy_level))


def with_fine_head(recipe: Recipe, checkpoint: Checkpoint, matrices: Mapping[MatrixName, Matrix]) -> Recipe:
    """8 bits for the head, which decides the next token, where that leaves at most 5.25 bits per weight.

    In small models with tied tables the head is a fifth of all weights, and 4 calibrated bits must do.
    """
    finer = recipe.at_8_bits([head_name(checkpoint.spec)])
    return finer if finer.quantization(matrices).bits_per_weight <= 5.25 else recipe
