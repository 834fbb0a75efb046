"""Vector code that numba does not write by itself: sums over nonzero weights, held in registers.

A tile is `units` vectors of contiguous floats. For each nonzero weight of a channel its value is spread over a vector and
multiplied into the tile's inputs; the sums stay in registers over all nonzeros and are stored once. Addresses are integers:
the compiled program is a table of them (`kernels.py`).
"""

from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _width() -> int:
    features = llvm.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


WIDTH = _width()
"""Floats of a vector register of this machine."""

_FLOAT, _INT, _BYTE, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(8), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, WIDTH)
_ZERO = ir.Constant(_VECTOR, [0.0] * WIDTH)


@intrinsic
def floats(typing: Any, address: Any, start: Any) -> Any:
    """Return a pointer to the float32 that lies `start` floats after an address."""

    def codegen(context: Any, b: Any, signature: Any, args: Sequence[Any]) -> Any:
        return b.gep(b.inttoptr(args[0], _FLOAT.as_pointer()), [args[1]])

    return types.CPointer(types.float32)(types.int64, types.int64), codegen


@intrinsic
def longs(typing: Any, address: Any) -> Any:
    """Return a pointer to int64 at an address."""
    return types.CPointer(types.int64)(types.int64), lambda context, b, signature, args: b.inttoptr(
        args[0], _LONG.as_pointer()
    )


@intrinsic
def call_at(typing: Any, function: Any, fields: Any) -> Any:
    """Call the function at an address, compiled by `cfunc`, with the address of its fields."""

    def codegen(context: Any, b: Any, signature: Any, args: Sequence[Any]) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [_LONG.as_pointer()])
        b.call(b.inttoptr(args[0], kind.as_pointer()), [b.inttoptr(args[1], _LONG.as_pointer())])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


def tile(units: int, lanes: int) -> Any:
    """Return the intrinsic `(x, y, offsets, values, first, last, bias)` of one output channel.

    It writes y[i] = bias + sum over k of values[k] * x[offsets[k] + i], for i from 0 to `units` * WIDTH and k from `first`
    up to `last`. x, y, offsets, values: addresses of float32, float32, int32 (in bytes) and float32. lanes: nonzeros that
    are summed independently, which hides the latency of an addition in short tiles.
    """

    @intrinsic
    def summed(typing: Any, x: Any, y: Any, offsets: Any, values: Any, first: Any, last: Any, bias: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Sequence[Any]) -> Any:
            x, y, offsets, values, first, last, bias = args
            fma = _fma(b)
            inputs, taps, weights = _pointer(b, x, _BYTE), _pointer(b, offsets, _INT), _pointer(b, values, _FLOAT)

            def step(k: Any, sums: Sequence[Any]) -> list[Any]:
                weight = _spread(b, b.load(b.gep(weights, [k])))
                at = b.bitcast(b.gep(inputs, [b.sext(b.load(b.gep(taps, [k])), _LONG)]), _FLOAT.as_pointer())
                return [b.call(fma, [weight, _load(b, at, i), total]) for i, total in enumerate(sums)]

            start = [[_spread(b, bias)] * units, *([_ZERO] * units for _ in range(lanes - 1))]
            sums = _loop(b, first, last, start, step)
            out = _pointer(b, y, _FLOAT)
            for i, total in enumerate(sums):
                b.store(total, _vector_at(b, out, i), align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6, types.float32), codegen

    return summed


def _loop(b: Any, first: Any, last: Any, start: Sequence[Sequence[Any]], step: Any) -> list[Any]:
    """Emit a loop over k from `first` up to `last`, as many k at once as `start` has lists of sums; return their total."""
    k, found = _unrolled(b, first, last, start, step)
    total = list(found[0])
    if len(found) > 1:
        for more in found[1:]:
            total = [b.fadd(one, other) for one, other in zip(total, more, strict=True)]
        _, (total,) = _unrolled(b, k, last, [total], step)
    return total


def _unrolled(b: Any, first: Any, last: Any, start: Sequence[Sequence[Any]], step: Any) -> tuple[Any, list[list[Any]]]:
    """Emit `while k + n <= last` with n = len(start); return k and the sums after it."""
    before = b.block
    head, body, end = (b.append_basic_block(name) for name in ("head", "body", "end"))
    b.branch(head)
    b.position_at_end(head)
    k = b.phi(_LONG)
    k.add_incoming(first, before)
    sums = [[b.phi(value.type) for value in some] for some in start]
    for phis, some in zip(sums, start, strict=True):
        for phi, value in zip(phis, some, strict=True):
            phi.add_incoming(value, before)
    after = b.add(k, _LONG(len(start)))
    b.cbranch(b.icmp_signed("<=", after, last), body, end)
    b.position_at_end(body)
    new = [step(b.add(k, _LONG(lane)), some) for lane, some in enumerate(sums)]
    k.add_incoming(after, b.block)
    for phis, some in zip(sums, new, strict=True):
        for phi, value in zip(phis, some, strict=True):
            phi.add_incoming(value, b.block)
    b.branch(head)
    b.position_at_end(end)
    return k, sums


def _fma(b: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{WIDTH}f32")


def _pointer(b: Any, address: Any, kind: Any) -> Any:
    return b.inttoptr(address, kind.as_pointer())


def _vector_at(b: Any, floats: Any, i: int) -> Any:
    return b.bitcast(b.gep(floats, [_LONG(i * WIDTH)]), _VECTOR.as_pointer())


def _load(b: Any, floats: Any, i: int) -> Any:
    return b.load(_vector_at(b, floats, i), align=4)


def _spread(b: Any, value: Any) -> Any:
    """Return the vector with `value` in all places."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = b.insert_element(nothing, value, _INT(0))
    return b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_INT, WIDTH), [0] * WIDTH))
