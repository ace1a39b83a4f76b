"""The artifacts that ship with this code, by the SHA-256 of their manifests. The tests of this code prove them.

So a local stack releases them without a proof, which would take as long as the rest of its start.
"""

SHIPPED = frozenset(
    {
        "d41414a9cd64236fbc746d693c40d83887170f877f306f7fc2f3cca712b6bfd0",  # chaos-backed@1
        "bbca7d18bcb20292563a400a73349dbb95422050afbe5878ca9150fb7d5ca586",  # chaos-probe@1
        "480ede19317be700c44220a17a4e3df6c05269be8d34439f44f4c40dac9719ee",  # chaos-standin@1
        "7fd29a253e1b969770e15057d81c3596a5761bc461d92c7228ee5519dbb9038a",  # credit-default-logistic@1
        "cf81e6d9ab8b21edc643e4f68aed788cf898de8dadce8eb5ed9b135abdc8d614",  # credit-default@1
    }
)
