"""The structures of Vulkan as psyne writes them down are those of its header."""

import subprocess
from pathlib import Path

from psyne.devices import vulkan_api

from .helpers.vulkan_fixtures import HEADERS, INCLUDE

INNER = {
    "PhysicalDeviceProperties2": "properties.",
    "ExternalBufferProperties": "externalMemoryProperties.",
}
STRUCTURE_TYPES = {  # whose names have numbers, or letters of a vendor
    "PhysicalDeviceProperties2": "_PHYSICAL_DEVICE_PROPERTIES_2",
    "PhysicalDeviceFeatures2": "_PHYSICAL_DEVICE_FEATURES_2",
    "PhysicalDeviceMaintenance3Properties": "_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES",
    "PhysicalDeviceVulkan11Features": "_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES",
    "PhysicalDeviceVulkan12Features": "_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES",
    "PhysicalDeviceExternalMemoryHostPropertiesEXT": "_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT",
    "MemoryHostPointerPropertiesEXT": "_MEMORY_HOST_POINTER_PROPERTIES_EXT",
    "MemoryFdPropertiesKHR": "_MEMORY_FD_PROPERTIES_KHR",
    "ImportMemoryHostPointerInfoEXT": "_IMPORT_MEMORY_HOST_POINTER_INFO_EXT",
    "ImportMemoryFdInfoKHR": "_IMPORT_MEMORY_FD_INFO_KHR",
}


@HEADERS
def test_the_structures_are_those_of_the_header(tmp_path: Path):
    lines, expected = [], []
    for name, it in vars(vulkan_api).items():
        if not isinstance(it, type) or not issubclass(it, vulkan_api.ctypes.Structure) or name == "Structure":
            continue
        lines.append(f'printf("{name} %zu\\n", sizeof(Vk{name}));')
        expected.append(f"{name} {vulkan_api.ctypes.sizeof(it)}")
        for field, _ in it._fields_:
            inner = "" if field in ("sType", "pNext") else INNER.get(name, "")
            if field.startswith("_") or (field == "features" and "Vulkan1" in name):
                continue
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof(Vk{name}, {inner}{field}));')
            expected.append(f"{name}.{field} {getattr(it, field).offset}")
        if issubclass(it, vulkan_api.Structure):
            enum = STRUCTURE_TYPES.get(name) or "".join(f"_{c}" if c.isupper() else c.upper() for c in name)
            lines.append(f'printf("{name} type %d\\n", VK_STRUCTURE_TYPE{enum});')
            expected.append(f"{name} type {it.TYPE}")
    source = tmp_path / "offsets.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <vulkan/vulkan_core.h>\nint main(void) {\n"
        + "\n".join(lines)
        + "\n}\n"
    )
    program = tmp_path / "offsets"
    subprocess.run(["gcc", f"-I{INCLUDE}", str(source), "-o", str(program)], check=True)
    told = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()
    assert told == expected
