"""Capture and draw every ConvBlock and DeconvBlock of an encoder-decoder, all channels of each.

Run it: python examples/blocks_of_an_encoder_decoder.py
"""

import torch

import stratascope as ss
from stratascope.seismic import ConvBlock, DeconvBlock, ReconstructionNet


def main() -> None:
    """Run two random images through ReconstructionNet and draw its blocks."""
    torch.manual_seed(0)
    model = ReconstructionNet(base_channels=4).eval()
    images = torch.randn(2, 1, 64, 64)

    with ss.tap(model, [ConvBlock, DeconvBlock]) as acts, torch.no_grad():
        model(images)
    print(acts)

    for site, value in acts.items():
        picture = ss.render.grid(value[0], title=f"{site} · sample 0")
        path = ss.render.save(
            picture,
            f"blocks/{site}.png",
            model="ReconstructionNet(base_channels=4)",
            site=str(site),
            sample=0,
            scale=ss.render.fit_scale(value[0]),
        )
        print(path)


if __name__ == "__main__":
    main()
