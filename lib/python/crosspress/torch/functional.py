"""functional.py - dispatch and combine as torch sees them: with gradients

    routing = crosspress.torch.route(plan, expert, weight)      # collective, as all of these
    rows = crosspress.torch.dispatch(x, routing)
    out = experts on rows[offsets[i]:offsets[i + 1]] ...        # the result must depend on rows on every rank, also when there are none
    y = crosspress.torch.combine(out, routing, x)

SPDX-License-Identifier: Apache-2.0
"""
import torch


def route(plan, expert, weight=None, expert_rank=None, sequence=None):
    """plan.route, and remembers the gate weights, so that combine returns their gradient."""
    routing = plan.route(expert, weight, expert_rank, sequence)
    routing.weight, routing.grad_y = weight, None
    return routing


class Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, routing):
        ctx.routing = routing
        return routing.dispatch(x.detach().contiguous())

    @staticmethod
    def backward(ctx, grad_rows):
        routing = ctx.routing
        grad_y, routing.grad_y = routing.grad_y, None
        return routing.dispatch_backward(grad_rows.contiguous(), grad_y), None


class Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, results, weight, x, routing):
        ctx.routing = routing
        ctx.weight_type = None if weight is None else weight.dtype
        results = results.detach().contiguous()
        ctx.save_for_backward(results)
        return routing.combine(results, None if x is None else x.detach().contiguous())

    @staticmethod
    def backward(ctx, grad_y):
        results, = ctx.saved_tensors
        grad_y = grad_y.contiguous()
        grad_rows, grad_weight = ctx.routing.combine_backward(grad_y, results if ctx.needs_input_grad[1] else None)
        ctx.routing.grad_y = grad_y  # folded: dispatch_backward adds the residuals' part
        return grad_rows, None if grad_weight is None else grad_weight.to(ctx.weight_type), None, None


def dispatch(x, routing):
    """Rows for this rank's experts, grouped by expert (routing.offsets)."""
    rows = Dispatch.apply(x, routing)
    # Combine's backward must be entered on every rank, also on one whose experts got no rows and so add no parameters to the graph.
    return rows.requires_grad_() if torch.is_grad_enabled() and not rows.requires_grad else rows


def combine(results, routing, x=None):
    """Gate-weighted sums of the expert results. `x`: what was dispatched; folded mode needs it."""
    return Combine.apply(results, routing.weight, x, routing)
