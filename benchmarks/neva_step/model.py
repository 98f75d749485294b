"""NeVa around the language model: vision tower, projector, media embeddings, loss, optimizer, one training step."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.neva_step import kernels as K  # noqa: N812
from benchmarks.neva_step import standin
from benchmarks.neva_step.parallel import Groups
from neva_pretrain.model.catalog import Model, VisionEncoder

try:
    from benchmarks.neva_step.megatron_llm import LanguageModel
except ImportError:
    from benchmarks.neva_step.standin import LanguageModel

try:
    import transformers
except ImportError:
    transformers = None

LLM = LanguageModel.made_by
TOWER = f"transformers {transformers.__version__}" if transformers else standin.LanguageModel.made_by


class Neva(nn.Module):
    """The frozen tower and language model with the projector between, as in NeMo's ``neva_model.py``."""

    def __init__(self, model: Model, profile: str, groups: Groups, device: torch.device) -> None:
        super().__init__()
        self.model, self.device = model, device
        llm, seed = model.architecture, 1000 * groups.tp_rank
        torch.manual_seed(seed)
        self.language = LanguageModel(llm, model.tokens_per_sample, profile, groups, device)
        _fill(self.language)
        self.language.requires_grad_(False)
        self.scaling = K.freeze_to_fp8(self.language, device) if profile == "fp8" else None
        torch.manual_seed(1)  # tower and projector are whole, and the same, on each rank
        with device:
            self.tower = _tower(model.vision).bfloat16().eval().requires_grad_(False)
            first = nn.Linear(model.vision.hidden_size, llm.hidden_size)
            self.projector = nn.Sequential(first, nn.GELU(), nn.Linear(llm.hidden_size, llm.hidden_size)).bfloat16()

    def forward(self, images: Tensor, ids: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Return the mean loss of the caption's tokens (``MegatronNevaModel.loss_func``)."""
        losses = self.language.losses(self._embed(ids, images), labels)
        return (losses.float() * mask).sum() / mask.sum()

    def begin_step(self) -> None:
        """Begin an optimizer step."""
        self.language.begin_step()
        if self.scaling:
            self.scaling.step()

    def _embed(self, ids: Tensor, images: Tensor) -> Tensor:
        """Return the embeddings ``[s, b, h]`` of words and images."""
        words = self._place_media(ids, self.language.embed(ids), self._encode(images))
        return words.transpose(0, 1).contiguous()

    def _encode(self, images: Tensor) -> Tensor:
        """``encode_vision_x``: the whole micro batch on each rank, without gradients, then the projector."""
        with torch.no_grad():
            features = self.tower(images.bfloat16(), **({"output_hidden_states": True} if transformers else {}))
            if transformers:
                features = features.hidden_states[-2]
        projected: Tensor = self.projector(features[:, 1:])
        return projected

    def _place_media(self, ids: Tensor, words: Tensor, media: Tensor) -> Tensor:
        """``replace_media_embeddings`` with the same tensors: an int64 index as large as the features, an fp32 copy.

        Its search for the media's end waits for the GPU once a sample; so does this.
        """
        batch, length, hidden = words.shape
        patches = media.size(1)
        starts = torch.full((batch, 1), length, device=ids.device)
        for row, sample in enumerate(ids):
            (end,) = torch.where(sample == self.media_end)
            starts[row] = end - patches + 1
        index = (starts + torch.arange(patches, device=ids.device)).unsqueeze(-1).repeat(1, 1, hidden)
        room = torch.zeros((batch, patches, hidden), device=words.device)
        wide = torch.cat((words, room), dim=1).type(media.dtype)
        return wide.scatter_(1, index, media)[:, :length]

    @property
    def media_end(self) -> int:
        """The token that ends an image; the last of the vocabulary."""
        return self.model.architecture.vocab_size - 1

    def batch(self, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return images, ids, labels and loss mask: an image's tokens, then random words, as a plain template has."""
        length, patches, side = self.model.tokens_per_sample, self.model.image_tokens, self.model.vision.image_size
        options: dict[str, Any] = {"device": self.device, "generator": generator}
        ids = torch.randint(0, self.media_end, (samples, length), **options)
        ids[:, patches - 1] = self.media_end
        mask = torch.zeros(samples, length, device=self.device)
        mask[:, patches:] = 1.0
        images = torch.randn(samples, 3, side, side, **options)
        return images, ids, ids.roll(-1, dims=1), mask


class Optimizer:
    """NeMo's ``MainParamsOptimizerWrapper`` over Adam: fp32 main parameters, fp32 gradients in one bucket."""

    def __init__(self, projector: nn.Module, groups: Groups, learning_rate: float) -> None:
        self.groups = groups
        self.params = list(projector.parameters())
        self.main = [nn.Parameter(p.detach().float()) for p in self.params]
        self.bucket = torch.zeros(sum(p.numel() for p in self.params), device=self.params[0].device)
        parts = self.bucket.split([p.numel() for p in self.params])
        for param, main, part in zip(self.params, self.main, parts, strict=True):
            main.grad = part.view_as(main)
            param.register_post_accumulate_grad_hook(self._hook(main))
        self.adam = torch.optim.AdamW(self.main, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)

    def _hook(self, main: Tensor) -> Any:
        def accumulate(param: Tensor) -> None:
            main.grad.add_(param.grad)
            param.grad = None

        return accumulate

    def step(self) -> Tensor:
        """Reduce over the replicas, clip to norm 1, step, write back; return the norm of the gradient."""
        if self.groups.dp_size > 1:
            self.bucket.div_(self.groups.dp_size)
            dist.all_reduce(self.bucket, group=self.groups.dp)
        norm = self.bucket.norm()
        self.bucket.mul_((1.0 / (norm + 1e-6)).clamp(max=1.0))
        self.adam.step()
        torch._foreach_copy_([p.data for p in self.params], self.main)
        self.bucket.zero_()
        return norm


def _fill(module: nn.Module) -> None:
    """Draw the matrices as GPTModel's initialization does; norms stay 1."""
    with torch.no_grad():
        for param in module.parameters():
            if param.dim() > 1:
                param.normal_(std=0.02)


def _tower(vision: VisionEncoder) -> nn.Module:
    """Return CLIP by transformers with eager attention, as the container's version has it, or the stand-in."""
    if transformers is None:
        return standin.Tower(vision)
    config = transformers.CLIPVisionConfig(
        hidden_size=vision.hidden_size,
        intermediate_size=4 * vision.hidden_size,
        num_hidden_layers=vision.num_layers,
        num_attention_heads=16,
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        attn_implementation="eager",
    )
    tower: nn.Module = transformers.CLIPVisionModel(config)
    return tower
