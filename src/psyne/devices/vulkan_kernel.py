"""Compute shaders over messages: one pipeline, one descriptor set for each slab, a message is an offset in it."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from ctypes import byref
from typing import TYPE_CHECKING

from ..errors import CannotShare, InvalidArgument
from . import vulkan_api as vk
from .operands import check_operand, counts
from .vulkan_queue import Job, VulkanEvent

if TYPE_CHECKING:
    from typing import TypeAlias

    from .spirv import Shader
    from .vulkan import Vulkan, VulkanCopy, VulkanView

    Operand: TypeAlias = VulkanView | VulkanCopy

__all__ = ["Kernel"]

CHUNK = 1 << 30  # bytes: dynamic offsets have 32 bits, so the descriptor begins at a multiple of this


class Dispatch(Job):
    """A job with a descriptor set, which knows to what it points."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel_layout, self._buffers = kernel.set_layout, kernel.buffers
        self._bound: list[tuple[int, int, int]] = []
        super().__init__(kernel.device.vulkan, kernel.idle)

    def _make(self, undo: ExitStack) -> None:
        super()._make(undo)
        if not self._buffers:
            return
        size = vk.DescriptorPoolSize(type=vk.DESCRIPTOR_STORAGE_BUFFER_DYNAMIC, descriptorCount=self._buffers)
        info = vk.DescriptorPoolCreateInfo(maxSets=1, poolSizeCount=1, pPoolSizes=ctypes.pointer(size))
        pool = self.driver.made("vkCreateDescriptorPool", "vkDestroyDescriptorPool", info, undo)
        layouts = vk.listed(ctypes.c_uint64, [self._kernel_layout])
        wanted = vk.DescriptorSetAllocateInfo(descriptorPool=pool, descriptorSetCount=1, pSetLayouts=layouts)
        self.sets: ctypes.Array[ctypes.c_uint64] = (ctypes.c_uint64 * 1)()
        self.driver.api.vkAllocateDescriptorSets(self.driver.handle, byref(wanted), self.sets)
        self.offsets: ctypes.Array[ctypes.c_uint32] = (ctypes.c_uint32 * self._buffers)()

    def bind(self, operands: tuple[Operand, ...]) -> None:
        """Points the set at what these are in; only the offsets, if they are where the last ones were."""
        bound = []
        for i, it in enumerate(operands):
            base = it.offset - it.offset % CHUNK
            self.offsets[i] = it.offset - base
            bound.append((it.memory.serial, base, it.nbytes))
        if bound == self._bound:
            return
        self._bound = []  # a half written one is none
        infos = vk.listed(
            vk.DescriptorBufferInfo,
            ((it.buffer, base, nbytes) for it, (_, base, nbytes) in zip(operands, bound, strict=True)),
        )
        write = vk.WriteDescriptorSet(
            dstSet=self.sets[0],
            descriptorCount=len(operands),  # of consecutive bindings, which are all of one kind
            descriptorType=vk.DESCRIPTOR_STORAGE_BUFFER_DYNAMIC,
            pBufferInfo=infos,
        )
        self.driver.api.vkUpdateDescriptorSets(self.driver.handle, 1, byref(write), 0, None)
        self._bound = bound


class Kernel:
    """A compute shader of one device. ``kernel(view, groups=n)`` runs it on messages in place, from any thread."""

    def __init__(self, device: Vulkan, shader: Shader, buffers: int | None, push: int) -> None:
        self.device: Vulkan = device
        self.shader: Shader = shader
        least = max(shader.writes, default=-1) + 1
        self.buffers: int = least if buffers is None else buffers
        """How many buffers it takes: bindings 0, 1, … of set 0."""
        self.push: int = push
        """Bytes of push constants."""
        self.idle: list[Dispatch] = []
        self._check(least)
        with ExitStack() as undo:
            self._make(undo)
            device.vulkan.owned(self, undo)

    def __call__(
        self, *views: Operand, groups: int | tuple[int, int, int] | tuple[int, int] = 1, push: bytes = b""
    ) -> VulkanEvent:
        """Run it: buffer n of the shader is ``views[n]``, and ``x.length()`` there what the view has.

        ``groups``: work groups in x, y and z; each has ``shader.local_size`` threads. ``push``: the push constants. The
        event keeps the messages until the work is done; who drops the event waits for it. Raises ReadOnly for a view
        that the device may not write, unless the shader declares that buffer ``readonly``; CannotShare for one that is
        longer than a buffer of the device may be; InvalidArgument.
        """
        device = self.device
        device.check_open()
        self._check_views(views)
        x, y, z = counts("groups", groups, device.vulkan.physical.limits.maxComputeWorkGroupCount)
        if len(push) != self.push:
            raise InvalidArgument(f"this kernel has {self.push} bytes of push constants, and got {len(push)}")
        api = device.vulkan.api
        try:
            job = self.idle.pop()
        except IndexError:
            job = Dispatch(self)
        commands = job.begin()
        api.vkCmdBindPipeline(commands, vk.BIND_POINT_COMPUTE, self._pipeline)
        if views:
            job.bind(views)
            api.vkCmdBindDescriptorSets(
                commands, vk.BIND_POINT_COMPUTE, self._layout, 0, 1, job.sets, len(views), job.offsets
            )
        if push:
            api.vkCmdPushConstants(commands, self._layout, vk.SHADER_STAGE_COMPUTE, 0, len(push), bytes(push))
        api.vkCmdDispatch(commands, x, y, z)
        return job.submit(self, *views)

    def __repr__(self) -> str:
        return f"<psyne.devices.Kernel of {self.buffers} buffers and {self.push} bytes on {self.device.name}>"

    # ---- checks: a driver does not make them, and the process would end ---------------------------------------------

    def _check(self, least: int) -> None:
        limits = self.device.vulkan.physical.limits
        if self.buffers < least:
            raise InvalidArgument(
                f"this shader uses binding {least - 1}, so it takes {least} buffers, not {self.buffers}"
            )
        if self.buffers > limits.maxDescriptorSetStorageBuffersDynamic:
            raise InvalidArgument(
                f"{self.device.name} gives a kernel at most {limits.maxDescriptorSetStorageBuffersDynamic} buffers, "
                f"not {self.buffers}"
            )
        if self.push % 4 or not 0 <= self.push <= limits.maxPushConstantsSize:
            raise InvalidArgument(
                f"push constants are a multiple of 4 and at most {limits.maxPushConstantsSize} bytes on "
                f"{self.device.name}, not {self.push}"
            )
        if self.shader.pushes and not self.push:
            raise InvalidArgument("this shader has push constants: say with push= how many bytes")
        x, y, z = self.shader.local_size
        most = limits.maxComputeWorkGroupSize
        if x * y * z > limits.maxComputeWorkGroupInvocations or x > most[0] or y > most[1] or z > most[2]:
            raise InvalidArgument(
                f"a group of this shader has {x} × {y} × {z} threads; {self.device.name} has at most "
                f"{limits.maxComputeWorkGroupInvocations}, and {' × '.join(map(str, most))}"
            )

    def _check_views(self, views: tuple[Operand, ...]) -> None:
        if len(views) != self.buffers:
            raise InvalidArgument(f"this kernel takes {self.buffers} buffers, and got {len(views)}")
        most = self.device.vulkan.physical.limits.maxStorageBufferRange
        for i, view in enumerate(views):
            check_operand(self.device, view, f"buffer {i}")
            if view.nbytes > most:
                raise CannotShare(
                    f"buffer {i} has {view.nbytes:,} bytes, and a kernel on {self.device.name} sees at most {most:,} "
                    "of one: hand over parts, dev.view(m.array[a:b])"
                )
            if self.shader.writes.get(i, False):
                view.check_writable(f"buffer {i} of this kernel (not declared `readonly`)")

    # ---- what the driver makes of it --------------------------------------------------------------------------------

    def _make(self, undo: ExitStack) -> None:
        driver = self.device.vulkan
        bindings = vk.listed(
            vk.DescriptorSetLayoutBinding,
            ((i, vk.DESCRIPTOR_STORAGE_BUFFER_DYNAMIC, 1, vk.SHADER_STAGE_COMPUTE, None) for i in range(self.buffers)),
        )
        set_info = vk.DescriptorSetLayoutCreateInfo(bindingCount=self.buffers, pBindings=bindings)
        self.set_layout: int = driver.made(
            "vkCreateDescriptorSetLayout", "vkDestroyDescriptorSetLayout", set_info, undo
        )
        layouts = vk.listed(ctypes.c_uint64, [self.set_layout])
        layout = vk.PipelineLayoutCreateInfo(setLayoutCount=1, pSetLayouts=layouts)
        if self.push:
            constants = vk.PushConstantRange(vk.SHADER_STAGE_COMPUTE, 0, self.push)
            layout.pushConstantRangeCount, layout.pPushConstantRanges = 1, ctypes.pointer(constants)
        self._layout = driver.made("vkCreatePipelineLayout", "vkDestroyPipelineLayout", layout, undo)
        module_info = vk.ShaderModuleCreateInfo(codeSize=len(self.shader.code), pCode=self.shader.code)
        with ExitStack() as soon:
            module = driver.made("vkCreateShaderModule", "vkDestroyShaderModule", module_info, soon)
            stage = vk.PipelineShaderStageCreateInfo(
                stage=vk.SHADER_STAGE_COMPUTE, module=module, pName=self.shader.entry.encode()
            )
            info = vk.ComputePipelineCreateInfo(stage=stage, layout=self._layout, basePipelineIndex=-1)
            pipeline = ctypes.c_uint64()
            driver.api.vkCreateComputePipelines(driver.handle, 0, 1, byref(info), None, byref(pipeline))
        self._pipeline = pipeline.value
        undo.callback(driver.api.vkDestroyPipeline, driver.handle, self._pipeline, None)
