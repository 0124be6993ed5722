"""Software TPMs with a test manufacturer, for tests and the demo. Nothing here is part of the product.

`Manufacturer` makes TPMs whose EK certificates chain to a CA of its own, made on the spot; `SoftTpm` runs one of them.

    manufacturer = Manufacturer(directory)
    with manufacturer.tpm("first") as tpm:
        tpm.tcti  # "swtpm:path=..." for ESAPI
"""

from swtpm.manufacturer import Manufacturer
from swtpm.slow import Delays
from swtpm.soft import SoftTpm, SoftTpmError

__all__ = ["Delays", "Manufacturer", "SoftTpm", "SoftTpmError"]
