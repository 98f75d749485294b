"""FusedAdam by torch, with apex's state: a `step` in the group, `exp_avg` and `exp_avg_sq` by parameter, fp32."""

import torch


class FusedAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay."""

    def __init__(self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, **other):
        if other.pop("adam_w_mode", True) is not True or other.pop("amsgrad", False):
            raise NotImplementedError("the stand-in is AdamW")
        defaults = {"lr": lr, "bias_correction": bias_correction, "betas": betas, "eps": eps}
        super().__init__(params, {**defaults, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        """Update all parameters that have a gradient."""
        loss = closure() if closure else None
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            beta1, beta2 = group["betas"]
            corrected = group["bias_correction"]
            first = 1 - beta1 ** group["step"] if corrected else 1.0
            second = 1 - beta2 ** group["step"] if corrected else 1.0
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient, state = parameter.grad.float(), self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.float)
                    state["exp_avg_sq"] = torch.zeros_like(parameter, dtype=torch.float)
                state["exp_avg"].lerp_(gradient, 1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                change = state["exp_avg"] / first / ((state["exp_avg_sq"] / second).sqrt() + group["eps"])
                parameter.sub_(group["lr"] * (change + group["weight_decay"] * parameter.float()))
        return loss


class FusedLAMB:
    """Imported by NeMo, not used."""


class FusedSGD:
    """Imported by megatron-core, not used."""
