"""Operators that autograd and compilers both take: derivatives of any order, in either mode.

torch 2.11's dynamo answers a write into the output of an autograd function with gradients of 0,
takes no autograd function within its own backward, and none with a forward mode. Compilers need
none of these: they turn writes into copies anyway, and stop at the first derivative. So they are
given something plainer.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

Operator = Callable[..., Tensor]

FEW = 2**18
"""Entries up to which several threads of the CPU add rows faster by reading and writing them."""


def operators(function: Any, jvp: Callable[..., Tensor]) -> tuple[Operator, Operator]:
    """Return the operator of an autograd function, and the same for use within a backward.

    Args:
        function: a subclass of torch.autograd.Function without forward mode, whose forward takes
            no ctx; it keeps every argument but tensors, and that no derivative touches, as
            `ctx.plain`.
        jvp: `linear` or `multilinear`, by what the function is in its tensors.
    """

    def forward_mode(ctx: Any, *tangents: Any) -> Tensor:
        return jvp(operator, ctx, tangents)

    # torch asks for it at every call, and it takes longer to read than a small image to convolve.
    function.forward.__signature__ = signature(function.forward)
    members = {"__doc__": function.__doc__, "jvp": staticmethod(forward_mode)}
    dual: Any = type(function)(function.__name__, (function,), members)
    # torch's way in reads the signature at every call, which only transforms have a use for.
    straight = super(torch.autograd.Function, dual).apply

    def operator(*args: Any) -> Tensor:
        """Call it; without a derivative to take, the plain sums."""
        call = dual.apply
        if torch.compiler.is_compiling():
            # dynamo hands a forward of any number of arguments a ctx where none needs a gradient.
            tracked = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
            call = function.apply if tracked and torch.is_grad_enabled() else function.forward
        elif outermost() and unwatched(*[arg for arg in args if isinstance(arg, Tensor)]):
            call = function.forward if untracked() else straight
        made: Tensor = call(*args)
        return made

    def within_backward(*args: Any) -> Tensor:
        """Call it; a compiler, and a backward that nobody derives again, gets the plain sums."""
        plain = torch.compiler.is_compiling() or (untracked() and outermost())
        made: Tensor = (function.forward if plain else dual.apply)(*args)
        return made

    return operator, within_backward


def untracked() -> bool:
    """Whether no derivative, of either mode, can be asked of what is computed now."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return False
    return forward_ad._current_level < 0


def outermost() -> bool:
    """Whether no transform of torch.func is under way."""
    return torch._C._functorch.peek_interpreter_stack() is None


def backward_alone() -> bool:
    """Whether neither a transform of torch.func nor forward mode is under way."""
    return outermost() and forward_ad._current_level < 0


def unwatched(*tensors: Tensor) -> bool:
    """Whether neither a compiler nor a transform of torch.func looks on."""
    if torch.compiler.is_compiling():
        return False
    return not any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))


def memory(tensor: Tensor) -> int:
    """Return a name of a tensor's memory, also of one that torch.func has wrapped, or a tracer."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    name: int = tensor.untyped_storage()._cdata  # a tracer's tensors all lie at address 0
    return name


def plus(
    y: Tensor,  # (P, C), what the caller has just made
    bias: Tensor | None,  # (C,)
) -> Tensor:
    """Return y + bias, in place where nobody looks on."""
    if bias is None:
        return y
    return y.add_(bias) if unwatched(y, bias) and y.dtype == bias.dtype else y + bias


def keeping(count: int) -> Any:
    """Return the setup_context of a function whose first arguments are tensors, the rest plain.

    Args:
        count: how many of the arguments are tensors or None; all of them are saved.
    """

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plain = inputs[count:]
        ctx.save_for_backward(*inputs[:count])
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*inputs[:count])

    return staticmethod(setup_context)


def linear(operator: Operator, ctx: Any, tangents: tuple[Any, ...]) -> Tensor:
    """Forward mode of a function that is linear in its first tensor and saves all the others."""
    return operator(tangents[0], *ctx.saved_tensors, *ctx.plain)


def multilinear(operator: Operator, ctx: Any, tangents: tuple[Any, ...]) -> Tensor:
    """Forward mode of a function that saves its tensors and is linear in each that has a tangent.

    The product rule: the sum of the function with each factor in turn replaced by its tangent.
    """
    parts = []
    for place in range(len(ctx.saved_tensors)):
        if tangents[place] is not None:
            factors = list(ctx.saved_tensors)
            factors[place] = tangents[place]
            parts.append(operator(*factors, *ctx.plain))
    total: Tensor = sum(parts[1:], parts[0])
    return total


def add_rows(
    total: Tensor,  # (P, C)
    where: Tensor,  # (n,)
    rows: Tensor,  # (n, C)
    *,
    distinct: bool,
) -> Tensor:
    """Return total with rows added at `where`, in place unless a compiler looks on.

    Args:
        total: what the caller has just made.
        where: rows of total.
        rows: what to add.
        distinct: whether no row of total is named twice; else, on CUDA, the additions are sorted,
            where atomics would race.
    """
    compiling = torch.compiler.is_compiling()
    if (
        distinct
        and not compiling
        and total.device.type == "cpu"
        and torch.get_num_threads() > 1
        and rows.numel() <= FEW
        and not torch._C._functorch.is_functorch_wrapped_tensor(total)  # vmap has no index_copy_
    ):
        # index_add_ of several threads starts many small steps that wait for each other.
        return total.index_copy_(0, where, total.index_select(0, where).add_(rows))
    if distinct or total.device.type != "cuda":
        add = total.index_add if compiling else total.index_add_
        return add(0, where, rows)
    put = total.index_put if compiling else total.index_put_
    return put((where,), rows, accumulate=True)
