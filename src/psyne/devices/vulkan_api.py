"""What of Vulkan is used here, in ctypes: constants, structures and calls, named as in the specification.

A structure knows its ``sType``; `chained` ties a list of them by ``pNext``. Calls that answer with a VkResult raise
`VulkanError` for those below 0.
"""

from __future__ import annotations

import ctypes
import itertools
from ctypes import POINTER, c_char, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from typing import Any, ClassVar

from ..errors import SystemFailure

API_VERSION_1_1 = 1 << 22 | 1 << 12
API_VERSION_1_2 = 1 << 22 | 2 << 12

NOT_READY, TIMEOUT = 1, 2
ERROR_EXTENSION_NOT_PRESENT = -7
ERROR_INCOMPATIBLE_DRIVER = -9
ERROR_INVALID_EXTERNAL_HANDLE = -1000072003
RESULTS = {
    -1: "out of host memory",
    -2: "out of device memory",
    -3: "initialisation failed",
    -4: "the device was lost",
    -5: "memory map failed",
    -6: "layer not present",
    -7: "extension not present",
    -8: "feature not present",
    -9: "incompatible driver",
    -10: "too many objects",
    -12: "fragmented pool",
    -13: "unknown error",
    -1000069000: "out of pool memory",
    ERROR_INVALID_EXTERNAL_HANDLE: "invalid external handle",
    -1000012000: "invalid shader",
}

# VkPhysicalDeviceType
OTHER, INTEGRATED_GPU, DISCRETE_GPU, VIRTUAL_GPU, CPU = range(5)

QUEUE_COMPUTE = 0x2
MEMORY_DEVICE_LOCAL, MEMORY_HOST_VISIBLE, MEMORY_HOST_COHERENT = 0x1, 0x2, 0x4
BUFFER_TRANSFER_SRC, BUFFER_TRANSFER_DST, BUFFER_STORAGE = 0x1, 0x2, 0x20
DESCRIPTOR_STORAGE_BUFFER_DYNAMIC = 9
SHADER_STAGE_COMPUTE = 0x20
BIND_POINT_COMPUTE = 1
COMMAND_BUFFER_ONE_TIME_SUBMIT = 0x1
COMMAND_POOL_TRANSIENT = 0x1
STAGE_COMPUTE, STAGE_TRANSFER, STAGE_HOST = 0x800, 0x1000, 0x4000
ACCESS_SHADER_READ, ACCESS_SHADER_WRITE = 0x20, 0x40
ACCESS_TRANSFER_READ, ACCESS_TRANSFER_WRITE = 0x800, 0x1000
ACCESS_HOST_READ, ACCESS_HOST_WRITE = 0x2000, 0x4000
WHOLE_SIZE = 2**64 - 1

# VkExternalMemoryHandleTypeFlagBits
HANDLE_HOST_ALLOCATION, HANDLE_DMA_BUF = 0x80, 0x200
EXTERNAL_MEMORY_DEDICATED_ONLY, EXTERNAL_MEMORY_IMPORTABLE = 0x1, 0x4

EXTERNAL_MEMORY_HOST = "VK_EXT_external_memory_host"
EXTERNAL_MEMORY_FD = "VK_KHR_external_memory_fd"
EXTERNAL_MEMORY_DMA_BUF = "VK_EXT_external_memory_dma_buf"


class Structure(ctypes.Structure):
    """A structure that begins with its type and a pointer to the next one."""

    TYPE: ClassVar[int]

    def __init__(self, **fields: Any) -> None:
        super().__init__(sType=self.TYPE, **fields)


def chained(*structures: Structure) -> Structure:
    """The first of structures that are tied to one another; it keeps them all."""
    for one, other in itertools.pairwise(structures):
        one.pNext = ctypes.addressof(other)
    structures[0].kept = structures[1:]
    return structures[0]


def listed(kind: Any, values: Any) -> Any:
    """A C array of some values."""
    values = list(values)
    return (kind * len(values))(*values)


def addresses(*texts: str) -> Any:
    return listed(c_char_p, (text.encode() for text in texts))


def version(number: int) -> str:
    return f"{number >> 22 & 0x7F}.{number >> 12 & 0x3FF}.{number & 0xFFF}"


def _structure(name: str, kind: int, *fields: tuple[str, Any]) -> type[Structure]:
    head = [("sType", c_uint32), ("pNext", c_void_p)]
    return type(name, (Structure,), {"TYPE": kind, "_fields_": [*head, *fields], "__module__": __name__})


def _plain(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields), "__module__": __name__})


ApplicationInfo = _structure(
    "ApplicationInfo",
    0,
    ("pApplicationName", c_char_p),
    ("applicationVersion", c_uint32),
    ("pEngineName", c_char_p),
    ("engineVersion", c_uint32),
    ("apiVersion", c_uint32),
)
InstanceCreateInfo = _structure(
    "InstanceCreateInfo",
    1,
    ("flags", c_uint32),
    ("pApplicationInfo", POINTER(ApplicationInfo)),
    ("enabledLayerCount", c_uint32),
    ("ppEnabledLayerNames", c_void_p),
    ("enabledExtensionCount", c_uint32),
    ("ppEnabledExtensionNames", POINTER(c_char_p)),
)
ExtensionProperties = _plain("ExtensionProperties", ("extensionName", c_char * 256), ("specVersion", c_uint32))
PhysicalDeviceLimits = _plain(  # the few that count here, in their places; tests compare them with vulkan.h
    "PhysicalDeviceLimits",
    ("_0", c_uint32 * 7),
    ("maxStorageBufferRange", c_uint32),
    ("maxPushConstantsSize", c_uint32),
    ("_36", c_uint32 * 19),
    ("maxDescriptorSetStorageBuffersDynamic", c_uint32),
    ("_116", c_uint32 * 25),
    ("maxComputeSharedMemorySize", c_uint32),
    ("maxComputeWorkGroupCount", c_uint32 * 3),
    ("maxComputeWorkGroupInvocations", c_uint32),
    ("maxComputeWorkGroupSize", c_uint32 * 3),
    ("_248", c_uint64 * 10),
    ("minStorageBufferOffsetAlignment", c_uint64),
    ("_336", c_uint64 * 21),
)
PhysicalDeviceProperties2 = _structure(
    "PhysicalDeviceProperties2",
    1000059001,
    ("apiVersion", c_uint32),
    ("driverVersion", c_uint32),
    ("vendorID", c_uint32),
    ("deviceID", c_uint32),
    ("deviceType", c_uint32),
    ("deviceName", c_char * 256),
    ("pipelineCacheUUID", c_uint32 * 4),
    ("limits", PhysicalDeviceLimits),
    ("sparseProperties", c_uint32 * 5),
)
PhysicalDeviceMaintenance3Properties = _structure(
    "PhysicalDeviceMaintenance3Properties",
    1000168000,
    ("maxPerSetDescriptors", c_uint32),
    ("maxMemoryAllocationSize", c_uint64),
)
PhysicalDeviceExternalMemoryHostPropertiesEXT = _structure(
    "PhysicalDeviceExternalMemoryHostPropertiesEXT", 1000178002, ("minImportedHostPointerAlignment", c_uint64)
)
PhysicalDeviceDriverProperties = _structure(
    "PhysicalDeviceDriverProperties",
    1000196000,
    ("driverID", c_uint32),
    ("driverName", c_char * 256),
    ("driverInfo", c_char * 256),
    ("conformanceVersion", c_uint32),
)
# Features are asked for and handed back as they are: all that the device has is switched on.
PhysicalDeviceFeatures2 = _structure("PhysicalDeviceFeatures2", 1000059000, ("features", c_uint32 * 55))
PhysicalDeviceVulkan11Features = _structure("PhysicalDeviceVulkan11Features", 49, ("features", c_uint32 * 12))
PhysicalDeviceVulkan12Features = _structure("PhysicalDeviceVulkan12Features", 51, ("features", c_uint32 * 47))
QueueFamilyProperties = _plain(
    "QueueFamilyProperties",
    ("queueFlags", c_uint32),
    ("queueCount", c_uint32),
    ("timestampValidBits", c_uint32),
    ("minImageTransferGranularity", c_uint32 * 3),
)
MemoryType = _plain("MemoryType", ("propertyFlags", c_uint32), ("heapIndex", c_uint32))
MemoryHeap = _plain("MemoryHeap", ("size", c_uint64), ("flags", c_uint32))
PhysicalDeviceMemoryProperties = _plain(
    "PhysicalDeviceMemoryProperties",
    ("memoryTypeCount", c_uint32),
    ("memoryTypes", MemoryType * 32),
    ("memoryHeapCount", c_uint32),
    ("memoryHeaps", MemoryHeap * 16),
)
PhysicalDeviceExternalBufferInfo = _structure(
    "PhysicalDeviceExternalBufferInfo",
    1000071002,
    ("flags", c_uint32),
    ("usage", c_uint32),
    ("handleType", c_uint32),
)
ExternalBufferProperties = _structure(
    "ExternalBufferProperties",
    1000071003,
    ("externalMemoryFeatures", c_uint32),
    ("exportFromImportedHandleTypes", c_uint32),
    ("compatibleHandleTypes", c_uint32),
)
DeviceQueueCreateInfo = _structure(
    "DeviceQueueCreateInfo",
    2,
    ("flags", c_uint32),
    ("queueFamilyIndex", c_uint32),
    ("queueCount", c_uint32),
    ("pQueuePriorities", POINTER(c_float)),
)
DeviceCreateInfo = _structure(
    "DeviceCreateInfo",
    3,
    ("flags", c_uint32),
    ("queueCreateInfoCount", c_uint32),
    ("pQueueCreateInfos", POINTER(DeviceQueueCreateInfo)),
    ("enabledLayerCount", c_uint32),
    ("ppEnabledLayerNames", c_void_p),
    ("enabledExtensionCount", c_uint32),
    ("ppEnabledExtensionNames", POINTER(c_char_p)),
    ("pEnabledFeatures", c_void_p),
)
ExternalMemoryBufferCreateInfo = _structure("ExternalMemoryBufferCreateInfo", 1000072000, ("handleTypes", c_uint32))
BufferCreateInfo = _structure(
    "BufferCreateInfo",
    12,
    ("flags", c_uint32),
    ("size", c_uint64),
    ("usage", c_uint32),
    ("sharingMode", c_uint32),
    ("queueFamilyIndexCount", c_uint32),
    ("pQueueFamilyIndices", c_void_p),
)
MemoryRequirements = _plain(
    "MemoryRequirements", ("size", c_uint64), ("alignment", c_uint64), ("memoryTypeBits", c_uint32)
)
MemoryHostPointerPropertiesEXT = _structure("MemoryHostPointerPropertiesEXT", 1000178001, ("memoryTypeBits", c_uint32))
MemoryFdPropertiesKHR = _structure("MemoryFdPropertiesKHR", 1000074001, ("memoryTypeBits", c_uint32))
ImportMemoryHostPointerInfoEXT = _structure(
    "ImportMemoryHostPointerInfoEXT", 1000178000, ("handleType", c_uint32), ("pHostPointer", c_void_p)
)
ImportMemoryFdInfoKHR = _structure("ImportMemoryFdInfoKHR", 1000074000, ("handleType", c_uint32), ("fd", c_int32))
MemoryDedicatedAllocateInfo = _structure(
    "MemoryDedicatedAllocateInfo", 1000127001, ("image", c_uint64), ("buffer", c_uint64)
)
MemoryAllocateInfo = _structure("MemoryAllocateInfo", 5, ("allocationSize", c_uint64), ("memoryTypeIndex", c_uint32))
ShaderModuleCreateInfo = _structure(
    "ShaderModuleCreateInfo", 16, ("flags", c_uint32), ("codeSize", c_size_t), ("pCode", c_char_p)
)
DescriptorSetLayoutBinding = _plain(
    "DescriptorSetLayoutBinding",
    ("binding", c_uint32),
    ("descriptorType", c_uint32),
    ("descriptorCount", c_uint32),
    ("stageFlags", c_uint32),
    ("pImmutableSamplers", c_void_p),
)
DescriptorSetLayoutCreateInfo = _structure(
    "DescriptorSetLayoutCreateInfo",
    32,
    ("flags", c_uint32),
    ("bindingCount", c_uint32),
    ("pBindings", POINTER(DescriptorSetLayoutBinding)),
)
PushConstantRange = _plain("PushConstantRange", ("stageFlags", c_uint32), ("offset", c_uint32), ("size", c_uint32))
PipelineLayoutCreateInfo = _structure(
    "PipelineLayoutCreateInfo",
    30,
    ("flags", c_uint32),
    ("setLayoutCount", c_uint32),
    ("pSetLayouts", POINTER(c_uint64)),
    ("pushConstantRangeCount", c_uint32),
    ("pPushConstantRanges", POINTER(PushConstantRange)),
)
PipelineShaderStageCreateInfo = _structure(
    "PipelineShaderStageCreateInfo",
    18,
    ("flags", c_uint32),
    ("stage", c_uint32),
    ("module", c_uint64),
    ("pName", c_char_p),
    ("pSpecializationInfo", c_void_p),
)
ComputePipelineCreateInfo = _structure(
    "ComputePipelineCreateInfo",
    29,
    ("flags", c_uint32),
    ("stage", PipelineShaderStageCreateInfo),
    ("layout", c_uint64),
    ("basePipelineHandle", c_uint64),
    ("basePipelineIndex", c_int32),
)
DescriptorPoolSize = _plain("DescriptorPoolSize", ("type", c_uint32), ("descriptorCount", c_uint32))
DescriptorPoolCreateInfo = _structure(
    "DescriptorPoolCreateInfo",
    33,
    ("flags", c_uint32),
    ("maxSets", c_uint32),
    ("poolSizeCount", c_uint32),
    ("pPoolSizes", POINTER(DescriptorPoolSize)),
)
DescriptorSetAllocateInfo = _structure(
    "DescriptorSetAllocateInfo",
    34,
    ("descriptorPool", c_uint64),
    ("descriptorSetCount", c_uint32),
    ("pSetLayouts", POINTER(c_uint64)),
)
DescriptorBufferInfo = _plain("DescriptorBufferInfo", ("buffer", c_uint64), ("offset", c_uint64), ("range", c_uint64))
WriteDescriptorSet = _structure(
    "WriteDescriptorSet",
    35,
    ("dstSet", c_uint64),
    ("dstBinding", c_uint32),
    ("dstArrayElement", c_uint32),
    ("descriptorCount", c_uint32),
    ("descriptorType", c_uint32),
    ("pImageInfo", c_void_p),
    ("pBufferInfo", POINTER(DescriptorBufferInfo)),
    ("pTexelBufferView", c_void_p),
)
CommandPoolCreateInfo = _structure("CommandPoolCreateInfo", 39, ("flags", c_uint32), ("queueFamilyIndex", c_uint32))
CommandBufferAllocateInfo = _structure(
    "CommandBufferAllocateInfo",
    40,
    ("commandPool", c_uint64),
    ("level", c_uint32),
    ("commandBufferCount", c_uint32),
)
CommandBufferBeginInfo = _structure("CommandBufferBeginInfo", 42, ("flags", c_uint32), ("pInheritanceInfo", c_void_p))
MemoryBarrier = _structure("MemoryBarrier", 46, ("srcAccessMask", c_uint32), ("dstAccessMask", c_uint32))
BufferCopy = _plain("BufferCopy", ("srcOffset", c_uint64), ("dstOffset", c_uint64), ("size", c_uint64))
SubmitInfo = _structure(
    "SubmitInfo",
    4,
    ("waitSemaphoreCount", c_uint32),
    ("pWaitSemaphores", c_void_p),
    ("pWaitDstStageMask", c_void_p),
    ("commandBufferCount", c_uint32),
    ("pCommandBuffers", POINTER(c_void_p)),
    ("signalSemaphoreCount", c_uint32),
    ("pSignalSemaphores", c_void_p),
)
FenceCreateInfo = _structure("FenceCreateInfo", 8, ("flags", c_uint32))

# Handles of instance, device, queue and command buffer are pointers (V), all others 64-bit numbers (H).
V, H, U, Q = c_void_p, c_uint64, c_uint32, c_uint64
ANSWER, NOTHING = c_int32, None
CALLS: dict[str, tuple[Any, list[Any]]] = {
    "vkEnumerateInstanceVersion": (ANSWER, [V]),
    "vkCreateInstance": (ANSWER, [V, V, V]),
    "vkDestroyInstance": (NOTHING, [V, V]),
    "vkEnumeratePhysicalDevices": (ANSWER, [V, V, V]),
    "vkGetPhysicalDeviceProperties2": (NOTHING, [V, V]),
    "vkGetPhysicalDeviceFeatures2": (NOTHING, [V, V]),
    "vkGetPhysicalDeviceMemoryProperties": (NOTHING, [V, V]),
    "vkGetPhysicalDeviceQueueFamilyProperties": (NOTHING, [V, V, V]),
    "vkGetPhysicalDeviceExternalBufferProperties": (NOTHING, [V, V, V]),
    "vkEnumerateDeviceExtensionProperties": (ANSWER, [V, c_char_p, V, V]),
    "vkCreateDevice": (ANSWER, [V, V, V, V]),
    "vkDestroyDevice": (NOTHING, [V, V]),
    "vkDeviceWaitIdle": (ANSWER, [V]),
    "vkGetDeviceQueue": (NOTHING, [V, U, U, V]),
    "vkGetDeviceProcAddr": (c_void_p, [V, c_char_p]),
    "vkCreateBuffer": (ANSWER, [V, V, V, V]),
    "vkDestroyBuffer": (NOTHING, [V, H, V]),
    "vkGetBufferMemoryRequirements": (NOTHING, [V, H, V]),
    "vkAllocateMemory": (ANSWER, [V, V, V, V]),
    "vkFreeMemory": (NOTHING, [V, H, V]),
    "vkBindBufferMemory": (ANSWER, [V, H, H, Q]),
    "vkMapMemory": (ANSWER, [V, H, Q, Q, U, V]),
    "vkCreateShaderModule": (ANSWER, [V, V, V, V]),
    "vkDestroyShaderModule": (NOTHING, [V, H, V]),
    "vkCreateDescriptorSetLayout": (ANSWER, [V, V, V, V]),
    "vkDestroyDescriptorSetLayout": (NOTHING, [V, H, V]),
    "vkCreatePipelineLayout": (ANSWER, [V, V, V, V]),
    "vkDestroyPipelineLayout": (NOTHING, [V, H, V]),
    "vkCreateComputePipelines": (ANSWER, [V, H, U, V, V, V]),
    "vkDestroyPipeline": (NOTHING, [V, H, V]),
    "vkCreateDescriptorPool": (ANSWER, [V, V, V, V]),
    "vkDestroyDescriptorPool": (NOTHING, [V, H, V]),
    "vkAllocateDescriptorSets": (ANSWER, [V, V, V]),
    "vkUpdateDescriptorSets": (NOTHING, [V, U, V, U, V]),
    "vkCreateCommandPool": (ANSWER, [V, V, V, V]),
    "vkDestroyCommandPool": (NOTHING, [V, H, V]),
    "vkResetCommandPool": (ANSWER, [V, H, U]),
    "vkAllocateCommandBuffers": (ANSWER, [V, V, V]),
    "vkBeginCommandBuffer": (ANSWER, [V, V]),
    "vkEndCommandBuffer": (ANSWER, [V]),
    "vkCmdBindPipeline": (NOTHING, [V, U, H]),
    "vkCmdBindDescriptorSets": (NOTHING, [V, U, H, U, U, V, U, V]),
    "vkCmdPushConstants": (NOTHING, [V, H, U, U, U, V]),
    "vkCmdDispatch": (NOTHING, [V, U, U, U]),
    "vkCmdCopyBuffer": (NOTHING, [V, H, H, U, V]),
    "vkCmdPipelineBarrier": (NOTHING, [V, U, U, U, U, V, U, V, U, V]),
    "vkQueueSubmit": (ANSWER, [V, U, V, H]),
    "vkCreateFence": (ANSWER, [V, V, V, V]),
    "vkDestroyFence": (NOTHING, [V, H, V]),
    "vkResetFences": (ANSWER, [V, U, V]),
    "vkGetFenceStatus": (ANSWER, [V, H]),
    "vkWaitForFences": (ANSWER, [V, U, V, U, Q]),
}
EXTENSION_CALLS: dict[str, tuple[Any, list[Any]]] = {  # a device says where its own are
    "vkGetMemoryHostPointerPropertiesEXT": (ANSWER, [V, U, V, V]),
    "vkGetMemoryFdPropertiesKHR": (ANSWER, [V, U, c_int32, V]),
}
EXTENSION_OF = {
    "vkGetMemoryHostPointerPropertiesEXT": EXTERNAL_MEMORY_HOST,
    "vkGetMemoryFdPropertiesKHR": EXTERNAL_MEMORY_FD,
}


class VulkanError(SystemFailure):
    """A call was answered with an error."""

    def __init__(self, call: str, code: int) -> None:
        super().__init__(f"{call}: {RESULTS.get(code, 'error')} ({code})")
        self.code = code


class Api:
    """The calls, as methods. ctypes lets the GIL go in each."""

    def __init__(self, library: str) -> None:
        loaded = ctypes.CDLL(library)
        for name, (answer, arguments) in CALLS.items():
            call = getattr(loaded, name)
            call.restype, call.argtypes = answer, arguments
            setattr(self, name, _checked(name, call) if answer is ANSWER else call)

    def __getattr__(self, name: str) -> Any:  # for type checkers: calls are set one by one
        raise AttributeError(name)


def device_call(api: Api, device: Any, name: str) -> Any:
    """A call of an extension that `device` was made with."""
    answer, arguments = EXTENSION_CALLS[name]
    return _checked(name, ctypes.CFUNCTYPE(answer, *arguments)(api.vkGetDeviceProcAddr(device, name.encode())))


def _checked(name: str, call: Any) -> Any:
    def check(result: int, *_: Any) -> int:
        if result < 0:
            raise VulkanError(name, result)
        return result

    call.errcheck = check
    return call
