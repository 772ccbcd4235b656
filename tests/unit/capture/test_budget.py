from stratascope.capture._budget import describe_excess


def test_an_excess_is_told_with_its_three_biggest_sites_and_what_to_do():
    sizes = {
        ("enc.0", "out", 1): 2_000,
        ("", "in", 1): 100,
        ("relu", "out", 3): 3_000,
        ("enc.2", "grad", 1): 1_500_000,
    }

    assert describe_excess(sizes, 4_000) == (
        "the values kept of one forward must take at most max_bytes=4,000 bytes, got 1,505,100 at "
        "4 sites, so none of them are kept. The biggest: 'enc.2:grad' 1,500,000, 'relu@3' 3,000, "
        "'enc.0' 2,000. Choose fewer sites, pool or slice with transform=, halve with "
        "dtype=torch.float16, take the host's memory with device='cpu' and more max_bytes, or "
        "write to disk with stratascope.extract"
    )
