"""The negative ELBO of a batch as one operation of autograd, for loops of a caller's own."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tombola.inference.forward import DataTerm
from tombola.posterior.batch import Batch, examples_of
from tombola.posterior.batch_norm import normalising_one
from tombola.posterior.binding import Binding, buffers_of
from tombola.streams import global_stream

if TYPE_CHECKING:
    from .bayesian import Bayesian


class NegativeElbo(torch.autograd.Function):
    """Runs forward and backward passes at once, sample by sample; its `backward` returns the stored gradients."""

    @staticmethod
    def forward(ctx: Any, net: "Bayesian", batch: Batch, kl_weight: float, samples: int, *params: Tensor) -> Tensor:
        sample, learned = net._weight_sample(), params[2:]
        before = [p.grad for p in learned]
        for p in learned:
            p.grad = None
        binding = Binding(net._module[0], net.layout, sample.theta, net._buffers_now)
        sample.converted = binding.converted
        try:
            dropout = global_stream("dropout", net._seed, net.step, device=sample.theta.device)
            with torch.enable_grad(), dropout, binding:
                net._module[0].train(net.training)
                with normalising_one(net._module[0], examples_of(batch)):
                    loss = net._gradients(
                        DataTerm(binding, net.likelihood),
                        sample,
                        batch,
                        net.step,
                        samples=samples,
                        scale=1.0,
                        kl_weight=kl_weight,
                        prior_std=net.prior_std,
                    )
                if net.training:
                    net._buffers_now = buffers_of(net._module[0])
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
        finally:
            for p, grad in zip(learned, before, strict=True):
                p.grad = grad
        if net.training:  # to validate in between changes nothing of the training
            net.step += 1
        ctx.save_for_backward(sample.mean_grad.clone(), sample.log_std_grad.clone(), *grads)
        return loss + kl_weight * net.kl().detach()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        (scale,) = outputs
        return (None,) * 4 + tuple(scale * grad for grad in ctx.saved_tensors)
