"""Token merging against a matching, an averaging and a whole pass written out token by token."""

import pytest
import torch
from torch import nn

from evalkit import models
from evalkit.errors import EvalkitError
from evalkit.train.mixups.parts.token_merging import match, merge, merge_schedule, merged_attention


@pytest.mark.parametrize(
    ("total", "depth", "schedule"),
    [
        (49, 12, [12, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2]),  # 43 of 6 - 4 i / 11 rounded down, and 6 more
        (98, 12, [8, 12, 11, 10, 10, 9, 8, 7, 7, 6, 5, 5]),  # 103 of 13 - 8 i / 11, and 5 less
        (10, 1, [10]),
        (0, 3, [0, 0, 0]),
        (2, 4, [2, 0, 0, 0]),
        (7, 12, [0] + [1] * 11),  # one each is closest; the first cannot give back more than it has
    ],
)
def test_schedule_by_hand(total, depth, schedule):
    assert merge_schedule(total, depth) == schedule


def brute_match(keys, count):
    """Groups of token indices of one image (T, d), in the order of the tokens that are left."""
    unit = keys / keys.norm(dim=1, keepdim=True)
    even, odd = list(range(0, len(keys), 2)), list(range(1, len(keys), 2))
    pairs = []
    for a in even[1:]:  # not the class token
        similarity, b = max(((unit[a] @ unit[b]).item(), -b) for b in odd)
        pairs.append((similarity, a, -b))
    pairs.sort(key=lambda p: -p[0])
    gone = {a: b for _, a, b in pairs[:count]}
    return [[a] for a in even if a not in gone] + [[b, *(a for a, target in gone.items() if target == b)] for b in odd]


@pytest.mark.parametrize(("tokens", "count"), [(17, 5), (17, 8), (10, 3), (3, 1), (9, 0)])
def test_match_and_merge_equal_brute_force(tokens, count):
    g = torch.Generator().manual_seed(tokens + count)
    keys, x, size = (
        torch.randn(4, tokens, 6, generator=g),
        torch.randn(4, tokens, 3, generator=g),
        torch.randint(1, 5, (4, tokens, 1), generator=g).float(),
    )
    place = match(keys, count)
    merged, sizes = merge(x, size, place, tokens - count)
    assert merged.shape == (4, tokens - count, 3)
    for i in range(4):
        groups = brute_match(keys[i], count)
        assert len(groups) == tokens - count and groups[0] == [0]
        for new, group in enumerate(groups):
            assert all(place[i, t] == new for t in group)
            weight = size[i, group]
            torch.testing.assert_close(merged[i, new], (x[i, group] * weight).sum(0) / weight.sum())
            assert sizes[i, new, 0] == weight.sum()


def make_vit(**kwargs):
    torch.manual_seed(0)
    args = {
        "img_size": 20,
        "patch_size": 4,
        "embed_dim": 12,
        "depth": 3,
        "num_heads": 2,
        "init_values": 0.5,
        "qk_norm": True,
    }
    model = models.create("vit_tiny_patch16_224", num_classes=3, **args | kwargs).model.eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def column(block, tokens, size):
    """(heads, T, T) attention and (T, d) mean keys of one image, and what the attention module returns, head by
    head."""
    attn, u = block.attn, block.norm1(tokens)
    width = u.shape[1]
    q, k, v = attn.qkv(u).split(width, dim=1)
    heads, outs, keys = [], [], []
    for h in range(attn.num_heads):
        cut = slice(h * width // attn.num_heads, (h + 1) * width // attn.num_heads)
        qh, kh = attn.q_norm(q[:, cut]), attn.k_norm(k[:, cut])
        weights = (qh @ kh.T / (width // attn.num_heads) ** 0.5).exp() * size  # a token of size s counts s times
        heads.append(weights / weights.sum(1, keepdim=True))
        outs.append(heads[-1] @ v[:, cut])
        keys.append(kh)
    return torch.stack(heads), torch.stack(keys).mean(0), attn.proj(torch.cat(outs, 1))


def brute_pass(model, image, total, last):
    """(N,) attention to the class token of every patch."""
    tokens = model._pos_embed(model.patch_embed(image[None]))[0]
    groups, size = [[t] for t in range(len(tokens))], torch.ones(len(tokens))
    for i, (block, count) in enumerate(zip(model.blocks, merge_schedule(total, len(model.blocks)), strict=True)):
        attention, keys, out = column(block, tokens, size)
        if i == last:
            score = torch.empty(sum(map(len, groups)))
            for row, group in enumerate(groups):
                score[group] = attention[:, row, 0].sum()
            return score[1:]
        tokens = tokens + block.ls1(out)
        joined = brute_match(keys, count)
        new = [(tokens[g] * size[g, None]).sum(0) / size[g].sum() for g in joined]
        groups = [[t for member in g for t in groups[member]] for g in joined]
        tokens, size = torch.stack(new), torch.stack([size[g].sum() for g in joined])
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))


@pytest.mark.parametrize(("share", "block"), [(0.4, None), (0.6, 2), (0.0, None), (0.4, 1)])
def test_a_pass_equals_brute_force(share, block):
    model, x = make_vit(), torch.randn(3, 3, 20, 20)
    got = merged_attention(model, x, share, block)
    assert got.shape == (3, 25) and got.dtype == torch.float32 and not got.requires_grad
    total = round(share * 25)
    with torch.no_grad():
        want = torch.stack([brute_pass(model, image, total, 2 if block is None else block - 1) for image in x])
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)
    assert got.std() > 1e-3


def test_without_merging_it_is_the_models_own_attention():
    model, x, seen = make_vit(), torch.randn(2, 3, 20, 20), {}
    attn = model.blocks[-1].attn
    attn.fused_attn = False
    attn.attn_drop.register_forward_pre_hook(lambda m, args: seen.update(a=args[0]))
    with torch.no_grad():
        model(x)
    torch.testing.assert_close(merged_attention(model, x, 0.0), seen["a"].sum(1)[:, 1:, 0], atol=1e-6, rtol=0)


def test_merging_equal_patches_changes_nothing():
    """Tokens that weigh as much as they stand for: equal ones may become one."""
    model = make_vit()
    nn.init.zeros_(model.pos_embed)
    x = torch.randn(2, 3, 4, 4).repeat(1, 1, 5, 5)
    torch.testing.assert_close(merged_attention(model, x, 0.8), merged_attention(model, x, 0.0), atol=1e-6, rtol=1e-5)


def test_mode_and_batch_norm_are_left_alone():
    model = make_vit(embed_norm_layer=None, proj_drop_rate=0.3).train()
    model.patch_embed.norm = nn.BatchNorm1d(25)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = merged_attention(model, torch.randn(2, 3, 20, 20), 0.4)
    assert (
        not found.requires_grad
        and model.training
        and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    )
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "args", "why"),
    [
        ("deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}, "neither registers nor a distillation token"),
        ("vit_nano_patch4_32", {"reg_tokens": 2, "depth": 1}, "neither registers"),
        ("vit_nano_patch4_32", {"class_token": False, "global_pool": "avg", "depth": 1}, "no class token"),
        ("xcit_nano_12_p16_224", {"depth": 1}, "plain vit"),
        ("resnet10_cifar", {}, "plain vit"),
    ],
)
def test_other_models_are_refused(name, args, why):
    with pytest.raises(EvalkitError, match=why):
        merged_attention(models.create(name, num_classes=2, **args).model, torch.zeros(1, 3, 32, 32), 0.2)
    with pytest.raises(EvalkitError, match="block 4 asked for, but the model has blocks 1 to 3"):
        merged_attention(make_vit(), torch.zeros(1, 3, 20, 20), 0.2, 4)
