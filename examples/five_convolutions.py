"""What comes out after five 1-D convolutions, for each input: by hooks, by a submodel, in training.

Run it: python examples/five_convolutions.py
"""

import torch
from torch import nn

import stratascope as ss


def build() -> nn.Module:
    """Build five convolutions with activations that work in place, and a head."""
    layers: list[nn.Module] = []
    for before, after in zip((1, 8, 8, 16, 16), (8, 8, 16, 16, 32), strict=True):
        layers += [nn.Conv1d(before, after, 5, padding=2), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 3))


def main() -> None:
    """Capture the fifth convolution in three ways and compare."""
    torch.manual_seed(0)
    model = build()
    x, labels = torch.randn(4, 1, 100), torch.tensor([0, 1, 2, 0])

    with ss.tap(model, "Conv1d[5]") as acts:
        model(x)
    by_hooks = acts["Conv1d[5]"]
    print(f"hooks     {acts.sites[0]}: {tuple(by_hooks.shape)}")

    part = ss.submodel(model, "Conv1d[5]", example=(x,))
    by_submodel = part(x)[part.sites[0]]
    print(f"submodel  {part.sites[0]}: the same values: {torch.equal(by_hooks, by_submodel)}")

    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    handle = ss.tap(model, "Conv1d[5]", every=10)
    for step in range(31):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if acts := handle.pop():
            print(f"step {step:2}   loss {loss:.3f}, spread {acts['8'].std():.3f}")
    handle.remove()

    ss.render.save(ss.render.line(by_hooks[0], title="after five convolutions"), "fifth.png")
    print("written   fifth.png")


if __name__ == "__main__":
    main()
