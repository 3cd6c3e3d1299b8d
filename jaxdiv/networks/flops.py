"""Arithmetic of the U-Net, counted from its configuration rather than asked of a compiler.

XLA's own estimate leaves out convolutions that run as library calls, which here is nearly all of them.
"""

from jaxdiv.networks.unet_config import BlockSpec, UNetConfig, decoder_blocks, encoder_blocks


def _block_macs(block: BlockSpec, embedding_dim: int) -> int:
    pixels = block.resolution**2
    macs = 9 * (block.num_in + block.num_out) * block.num_out * pixels + embedding_dim * block.num_out
    if block.num_in != block.num_out or block.resample:
        # The 1x1 convolution of the skip path runs at the smaller resolution, before upsampling or after downsampling.
        macs += block.num_in * block.num_out * (pixels // 4 if block.resample == "up" else pixels)
    if block.attention:
        macs += 4 * block.num_out**2 * pixels + 2 * pixels**2 * block.num_out
    return macs


def count_flops(config: UNetConfig) -> int:
    """Floating-point operations of one forward pass on one image, two for each multiply-add.

    Counts convolutions, dense layers and the two attention products; normalizations and activations, a few thousandths
    of it, are left out. A backward pass to parameters and input costs twice this, a backward pass to the input alone
    once.

    Returns:
        FLOP per image.

    Example:
        >>> from jaxdiv.networks import cifar10_edm, count_flops
        >>> round(count_flops(cifar10_edm()) / 2e9, 2)  # EDM's CIFAR-10 network, in GMAC
        21.13
    """
    width = config.model_channels
    embedding_dim = width * config.channel_mult_emb
    decoder = decoder_blocks(config)
    macs = (config.label_dim + config.augment_dim) * width + width * embedding_dim + embedding_dim**2
    macs += 9 * config.channels * (width + decoder[-1].num_out) * config.image_size**2
    macs += sum(_block_macs(block, embedding_dim) for block in (*encoder_blocks(config), *decoder))
    return 2 * macs
