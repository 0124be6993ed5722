"""The root of AWS Nitro that is pinned: it certifies, over the CAs of a region, zone and instance, what signs attestation documents.

The certificate itself is carried, which is public; what is believed is its SHA-256.

Source: AWS Nitro Enclaves user guide, "Verifying the root of trust" (AWS_NitroEnclaves_Root-G1).
"""

from __future__ import annotations

from typing import Final

from writ.formats.digest import Digest
from writ.formats.x509 import Certificate, parse_pem_certificates

NITRO_ROOT: Final = Digest.parse("sha256:641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")

_ROOT_G1: Final = b"""\
-----BEGIN CERTIFICATE-----
MIICETCCAZagAwIBAgIRAPkxdWgbkK/hHUbMtOTn+FYwCgYIKoZIzj0EAwMwSTEL
MAkGA1UEBhMCVVMxDzANBgNVBAoMBkFtYXpvbjEMMAoGA1UECwwDQVdTMRswGQYD
VQQDDBJhd3Mubml0cm8tZW5jbGF2ZXMwHhcNMTkxMDI4MTMyODA1WhcNNDkxMDI4
MTQyODA1WjBJMQswCQYDVQQGEwJVUzEPMA0GA1UECgwGQW1hem9uMQwwCgYDVQQL
DANBV1MxGzAZBgNVBAMMEmF3cy5uaXRyby1lbmNsYXZlczB2MBAGByqGSM49AgEG
BSuBBAAiA2IABPwCVOumCMHzaHDimtqQvkY4MpJzbolL//Zy2YlES1BR5TSksfbb
48C8WBoyt7F2Bw7eEtaaP+ohG2bnUs990d0JX28TcPQXCEPZ3BABIeTPYwEoCWZE
h8l5YoQwTcU/9KNCMEAwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQUkCW1DdkF
R+eWw5b6cp3PmanfS5YwDgYDVR0PAQH/BAQDAgGGMAoGCCqGSM49BAMDA2kAMGYC
MQCjfy+Rocm9Xue4YnwWmNJVA44fA0P5W2OpYow9OYCVRaEevL8uO1XYru5xtMPW
rfMCMQCi85sWBbJwKKXdS6BptQFuZbT73o/gBh1qUxl/nNr12UO8Yfwr6wPLb+6N
IwLz3/Y=
-----END CERTIFICATE-----"""

NITRO_CERTIFICATES: Final[tuple[Certificate, ...]] = parse_pem_certificates(_ROOT_G1, "AWS Nitro root")
