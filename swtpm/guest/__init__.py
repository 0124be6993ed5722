"""A machine that really boots: UEFI firmware, Secure Boot, a TPM, a measured kernel, IMA, and our attestor inside; for tests only.

Built from packages of the distribution and from this tree, without root, and kept by the digest of what it was built from; booted
under QEMU. The TPM is a swtpm of our own test manufacturer, so its EK certificate chains to a root that a test verifier may trust.

    firmware -> UKI on the ESP: stub, kernel, initrd, command line with a root hash -> root file tree on dm-verity -> guest-init

    image = build(Path(".guest"))
    with Machine.new(home, image, tpm=Manufacturer(...).state("guest"), files={...}) as machine:
        machine.start(image.esp(), verifier_port=port)
        machine.run("attestor --config /etc/writ/attestor.toml init")

amd64 only: what is unpacked into the guest must fit the Python that this tree's libraries were installed for.
"""

from swtpm.guest.disk import Verity, make_root
from swtpm.guest.image import Boot, Image, build
from swtpm.guest.machine import GuestError, Machine, Ran
from swtpm.guest.packages import BuildError

__all__ = ["Boot", "BuildError", "GuestError", "Image", "Machine", "Ran", "Verity", "build", "make_root"]
