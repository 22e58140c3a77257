from dataclasses import dataclass

from torch import Tensor

from hemalens.training.random import uniform


@dataclass(frozen=True)
class MixPlan:
    partner: Tensor
    mixed: Tensor
    draws: Tensor

    def of(self, chosen):
        return MixPlan(self.partner[chosen], self.mixed[chosen], self.draws[chosen])


def mix_plan(keys, *, seed, epoch, total, kind, probability):
    d = uniform(keys, seed=seed, epoch=epoch, stream="mix", count=4)
    return MixPlan((d[:, 0] * total).long(), d[:, 1] < probability, d[:, 2:])


def mix_pictures(p, q, plan):
    lam = plan.draws[:, 0]
    l = lam[:, None, None, None]
    return p * l + q * (1 - l), lam
