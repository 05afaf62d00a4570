"""The kernels of `triton`: output-stationary products over a neighbour table, without atomics.

    send        y[order[m]]  = bias + sum over slots s of  x[table[s, m]] @ taps[kind[s]]
    correlate   T[z, t]      = sum over the rows m of part z of  x[table[t, m]]^T g[order[m]]

Each program owns a block of the result, so nothing races; sums run in float32, over slots and
channels in one fixed order. Parts of `correlate` are added up by the caller, in their order. A
block of rows that hears nothing through a tap skips it.

Channels are compile-time constants, numbers of rows never are. The one module that imports triton;
it is imported when first launched.
"""

import triton
import triton.language as tl

_ROWS = ["num_rows", "num_slots", "chunk"]


@triton.jit(do_not_specialize=_ROWS[:2])  # type: ignore[untyped-decorator]
def send(
    x: tl.tensor,  # (N, G * CI)
    taps: tl.tensor,  # (K, G, CI, CO)
    bias: tl.tensor,  # (G * CO,), read if HAS_BIAS
    table: tl.tensor,  # (S, P)
    order: tl.tensor,  # (P,)
    kind: tl.tensor,  # (S,)
    y: tl.tensor,  # (P, G * CO)
    num_rows: tl.tensor,
    num_slots: tl.tensor,
    GROUPS: tl.constexpr,  # noqa: N803
    CI: tl.constexpr,  # noqa: N803
    CO: tl.constexpr,  # noqa: N803
    HAS_BIAS: tl.constexpr,  # noqa: N803
    BM: tl.constexpr,  # noqa: N803
    BN: tl.constexpr,  # noqa: N803
    BK: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    WIDEN: tl.constexpr,  # noqa: N803
) -> None:
    """One block of BM sites by BN channels of one group."""
    # Neighbouring programs share rows of x: channel blocks go fastest.
    wide: tl.constexpr = (CO + BN - 1) // BN
    block = tl.program_id(0)
    g = tl.program_id(1)
    m = (block // wide) * BM + tl.arange(0, BM)
    n = (block % wide) * BN + tl.arange(0, BN)
    live = m < num_rows
    total = tl.zeros((BM, BN), tl.float32)
    row = table + m
    for s in range(num_slots):
        q = tl.load(row, mask=live, other=-1)
        row += num_rows
        if tl.max(q, 0) >= 0:
            t = tl.load(kind + s).to(tl.int64)
            heard = x + q.to(tl.int64) * (GROUPS * CI) + g * CI
            matrix = taps + (t * GROUPS + g) * (CI * CO) + n
            for k in range(0, CI, BK):
                c = k + tl.arange(0, BK)
                here = (q >= 0)[:, None] & (c < CI)[None, :]
                a = tl.load(heard[:, None] + c[None, :], mask=here, other=0.0)
                there = (c < CI)[:, None] & (n < CO)[None, :]
                b = tl.load(matrix[None, :] + c[:, None] * CO, mask=there, other=0.0)
                if WIDEN:  # the interpreter multiplies bfloat16 as if it were integers
                    a = a.to(tl.float32)
                    b = b.to(tl.float32)
                total = tl.dot(a, b, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + g * CO + n, mask=n < CO, other=0.0).to(tl.float32)[None, :]
    p = tl.load(order + m, mask=live, other=0).to(tl.int64)
    out = y + (p * (GROUPS * CO) + g * CO)[:, None] + n[None, :]
    tl.store(out, total.to(y.dtype.element_ty), mask=live[:, None] & (n < CO)[None, :])


@triton.jit(do_not_specialize=_ROWS[:2])  # type: ignore[untyped-decorator]
def send_depthwise(
    x: tl.tensor,  # (N, C)
    taps: tl.tensor,  # (K, C)
    bias: tl.tensor,  # (C,), read if HAS_BIAS
    table: tl.tensor,  # (S, P)
    order: tl.tensor,  # (P,)
    kind: tl.tensor,  # (S,)
    y: tl.tensor,  # (P, C)
    num_rows: tl.tensor,
    num_slots: tl.tensor,
    C: tl.constexpr,  # noqa: N803
    HAS_BIAS: tl.constexpr,  # noqa: N803
    BM: tl.constexpr,  # noqa: N803
    BN: tl.constexpr,  # noqa: N803
) -> None:
    """One spatial tile of BM sites by BN channels; its halo is read from cache."""
    wide: tl.constexpr = (C + BN - 1) // BN
    block = tl.program_id(0)
    m = (block // wide) * BM + tl.arange(0, BM)
    n = (block % wide) * BN + tl.arange(0, BN)
    live, inside = m < num_rows, n < C
    total = tl.zeros((BM, BN), tl.float32)
    row = table + m
    for s in range(num_slots):
        q = tl.load(row, mask=live, other=-1)
        row += num_rows
        if tl.max(q, 0) >= 0:
            t = tl.load(kind + s).to(tl.int64)
            w = tl.load(taps + t * C + n, mask=inside, other=0.0).to(tl.float32)
            heard = (x + q.to(tl.int64) * C)[:, None] + n[None, :]
            a = tl.load(heard, mask=(q >= 0)[:, None] & inside[None, :], other=0.0)
            total += a.to(tl.float32) * w[None, :]
    if HAS_BIAS:
        total += tl.load(bias + n, mask=inside, other=0.0).to(tl.float32)[None, :]
    p = tl.load(order + m, mask=live, other=0).to(tl.int64)
    out = (y + p * C)[:, None] + n[None, :]
    tl.store(out, total.to(y.dtype.element_ty), mask=live[:, None] & inside[None, :])


@triton.jit(do_not_specialize=_ROWS[::2])  # type: ignore[untyped-decorator]
def correlate(
    x: tl.tensor,  # (N, G * CI)
    g: tl.tensor,  # (P, G * CO)
    table: tl.tensor,  # (K, P)
    order: tl.tensor,  # (P,)
    parts: tl.tensor,  # (Z, K, G, CI, CO) float32
    num_rows: tl.tensor,
    chunk: tl.tensor,  # rows of a part, a multiple of BM
    TAPS: tl.constexpr,  # noqa: N803
    GROUPS: tl.constexpr,  # noqa: N803
    CI: tl.constexpr,  # noqa: N803
    CO: tl.constexpr,  # noqa: N803
    BI: tl.constexpr,  # noqa: N803
    BN: tl.constexpr,  # noqa: N803
    BM: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    WIDEN: tl.constexpr,  # noqa: N803
) -> None:
    """One block of BI by BN entries of one tap and group, over the rows of one part."""
    wide: tl.constexpr = (CO + BN - 1) // BN
    high: tl.constexpr = (CI + BI - 1) // BI
    block = tl.program_id(0)
    t = (block // (wide * high)).to(tl.int64)
    c = ((block // wide) % high) * BI + tl.arange(0, BI)
    n = (block % wide) * BN + tl.arange(0, BN)
    group, part = tl.program_id(1), tl.program_id(2).to(tl.int64)
    total = tl.zeros((BI, BN), tl.float32)
    for start in range(0, chunk, BM):
        m = part * chunk + start + tl.arange(0, BM)
        live = m < num_rows
        q = tl.load(table + t * num_rows + m, mask=live, other=-1)
        if tl.max(q, 0) >= 0:
            p = tl.load(order + m, mask=live, other=0).to(tl.int64)
            heard = x + q.to(tl.int64) * (GROUPS * CI) + group * CI
            here = (c < CI)[:, None] & (q >= 0)[None, :]
            a = tl.load(heard[None, :] + c[:, None], mask=here, other=0.0)
            there = (q >= 0)[:, None] & (n < CO)[None, :]
            said = g + p * (GROUPS * CO) + group * CO
            b = tl.load(said[:, None] + n[None, :], mask=there, other=0.0)
            if WIDEN:
                a = a.to(tl.float32)
                b = b.to(tl.float32)
            total = tl.dot(a, b, total, input_precision=PRECISION)
    matrix = parts + ((part * TAPS + t) * GROUPS + group) * (CI * CO)
    inside = (c < CI)[:, None] & (n < CO)[None, :]
    tl.store(matrix + c[:, None] * CO + n[None, :], total, mask=inside)


@triton.jit(do_not_specialize=_ROWS[::2])  # type: ignore[untyped-decorator]
def correlate_depthwise(
    x: tl.tensor,  # (N, C)
    g: tl.tensor,  # (P, C)
    table: tl.tensor,  # (K, P)
    order: tl.tensor,  # (P,)
    parts: tl.tensor,  # (Z, K, C) float32
    num_rows: tl.tensor,
    chunk: tl.tensor,  # rows of a part, a multiple of BM
    TAPS: tl.constexpr,  # noqa: N803
    C: tl.constexpr,  # noqa: N803
    BM: tl.constexpr,  # noqa: N803
    BN: tl.constexpr,  # noqa: N803
) -> None:
    """BN channels of one tap, over the rows of one part."""
    wide: tl.constexpr = (C + BN - 1) // BN
    block = tl.program_id(0)
    t = (block // wide).to(tl.int64)
    n = (block % wide) * BN + tl.arange(0, BN)
    part = tl.program_id(2).to(tl.int64)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, chunk, BM):
        m = part * chunk + start + tl.arange(0, BM)
        live = m < num_rows
        q = tl.load(table + t * num_rows + m, mask=live, other=-1)
        if tl.max(q, 0) >= 0:
            p = tl.load(order + m, mask=live, other=0).to(tl.int64)
            here = (q >= 0)[:, None] & (n < C)[None, :]
            a = tl.load((x + q.to(tl.int64) * C)[:, None] + n[None, :], mask=here, other=0.0)
            b = tl.load((g + p * C)[:, None] + n[None, :], mask=here, other=0.0)
            total += a.to(tl.float32) * b.to(tl.float32)
    tl.store(parts + (part * TAPS + t) * C + n, tl.sum(total, 0), mask=n < C)
