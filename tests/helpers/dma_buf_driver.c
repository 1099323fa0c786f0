/* A Vulkan loader for tests, before the real one: a driver that refuses pages of files as pointers, as AMD's does, and
   imports dma-bufs instead. What udmabuf.py gives out as a dma-buf is a descriptor of the memory itself, standing at the
   offset of its first page; the driver behind imports it as a pointer. Everything else goes to the real loader.

   gcc -shared -fPIC dma_buf_driver.c -o libdmabuf.so -Wl,--no-as-needed -l:libvulkan.so.1 -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vulkan/vulkan_core.h>

#define EXPORTED __attribute__((visibility("default")))
#define REAL(name) ((PFN_##name)real(#name))

static void* real(const char* name) {
    static void* loader;
    if (!loader) loader = dlopen("libvulkan.so.1", RTLD_NOW);
    return dlsym(loader, name);
}

static struct { VkDeviceMemory memory; void* pages; size_t bytes; } imports[64];
static PFN_vkGetMemoryHostPointerPropertiesEXT pointer_properties;

static int is_dma_buf(const char* name) {
    return !strcmp(name, "VK_EXT_external_memory_dma_buf") || !strcmp(name, "VK_KHR_external_memory_fd");
}

EXPORTED VkResult vkEnumerateDeviceExtensionProperties(VkPhysicalDevice device, const char* layer, uint32_t* count,
                                                       VkExtensionProperties* properties) {
    uint32_t n = 0, room = *count;
    PFN_vkEnumerateDeviceExtensionProperties enumerate = REAL(vkEnumerateDeviceExtensionProperties);
    enumerate(device, layer, &n, NULL);
    *count = n + 2;
    if (!properties) return VK_SUCCESS;
    if (room < n + 2) return VK_INCOMPLETE;
    enumerate(device, layer, &n, properties);
    memset(properties + n, 0, 2 * sizeof *properties);
    strcpy(properties[n].extensionName, "VK_EXT_external_memory_dma_buf");
    strcpy(properties[n + 1].extensionName, "VK_KHR_external_memory_fd");
    return VK_SUCCESS;
}

EXPORTED VkResult vkCreateDevice(VkPhysicalDevice physical, const VkDeviceCreateInfo* info,
                                 const VkAllocationCallbacks* callbacks, VkDevice* device) {
    VkDeviceCreateInfo mine = *info;
    const char* names[8];
    mine.enabledExtensionCount = 0;
    mine.ppEnabledExtensionNames = names;
    for (uint32_t i = 0; i < info->enabledExtensionCount; ++i)
        if (!is_dma_buf(info->ppEnabledExtensionNames[i]))
            names[mine.enabledExtensionCount++] = info->ppEnabledExtensionNames[i];
    VkResult result = REAL(vkCreateDevice)(physical, &mine, callbacks, device);
    if (result == VK_SUCCESS)
        pointer_properties = (PFN_vkGetMemoryHostPointerPropertiesEXT)REAL(vkGetDeviceProcAddr)(
            *device, "vkGetMemoryHostPointerPropertiesEXT");
    return result;
}

EXPORTED void vkGetPhysicalDeviceExternalBufferProperties(VkPhysicalDevice device,
                                                          const VkPhysicalDeviceExternalBufferInfo* info,
                                                          VkExternalBufferProperties* properties) {
    VkPhysicalDeviceExternalBufferInfo mine = *info;
    if (info->handleType == VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT)
        mine.handleType = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    REAL(vkGetPhysicalDeviceExternalBufferProperties)(device, &mine, properties);
    if (mine.handleType != info->handleType)
        properties->externalMemoryProperties.externalMemoryFeatures |= VK_EXTERNAL_MEMORY_FEATURE_DEDICATED_ONLY_BIT;
}

EXPORTED VkResult vkCreateBuffer(VkDevice device, const VkBufferCreateInfo* info, const VkAllocationCallbacks* callbacks,
                                 VkBuffer* buffer) {
    for (VkBaseOutStructure* it = (VkBaseOutStructure*)info->pNext; it; it = it->pNext)
        if (it->sType == VK_STRUCTURE_TYPE_EXTERNAL_MEMORY_BUFFER_CREATE_INFO)
            ((VkExternalMemoryBufferCreateInfo*)it)->handleTypes = VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT;
    return REAL(vkCreateBuffer)(device, info, callbacks, buffer);
}

static VkResult refuse_pointer(VkDevice device, VkExternalMemoryHandleTypeFlagBits type, const void* pointer,
                               VkMemoryHostPointerPropertiesEXT* properties) {
    (void)device, (void)type, (void)pointer, (void)properties;
    return VK_ERROR_INVALID_EXTERNAL_HANDLE;
}

static void* mapped(int fd, size_t bytes) {
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, lseek(fd, 0, SEEK_CUR));
}

static VkResult fd_properties(VkDevice device, VkExternalMemoryHandleTypeFlagBits type, int fd,
                              VkMemoryFdPropertiesKHR* properties) {
    VkMemoryHostPointerPropertiesEXT host = {VK_STRUCTURE_TYPE_MEMORY_HOST_POINTER_PROPERTIES_EXT, NULL, 0};
    void* page = mapped(fd, 4096);
    if (type != VK_EXTERNAL_MEMORY_HANDLE_TYPE_DMA_BUF_BIT_EXT || page == MAP_FAILED) return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    VkResult result = pointer_properties(device, VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT, page, &host);
    munmap(page, 4096);
    properties->memoryTypeBits = host.memoryTypeBits;
    return result;
}

EXPORTED PFN_vkVoidFunction vkGetDeviceProcAddr(VkDevice device, const char* name) {
    if (!strcmp(name, "vkGetMemoryHostPointerPropertiesEXT")) return (PFN_vkVoidFunction)refuse_pointer;
    if (!strcmp(name, "vkGetMemoryFdPropertiesKHR")) return (PFN_vkVoidFunction)fd_properties;
    return REAL(vkGetDeviceProcAddr)(device, name);
}

EXPORTED VkResult vkAllocateMemory(VkDevice device, const VkMemoryAllocateInfo* info,
                                   const VkAllocationCallbacks* callbacks, VkDeviceMemory* memory) {
    const VkImportMemoryFdInfoKHR* import = NULL;
    const VkMemoryDedicatedAllocateInfo* dedicated = NULL;
    for (const VkBaseInStructure* it = info->pNext; it; it = it->pNext) {
        if (it->sType == VK_STRUCTURE_TYPE_IMPORT_MEMORY_FD_INFO_KHR) import = (const void*)it;
        if (it->sType == VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO) dedicated = (const void*)it;
    }
    if (!import) return REAL(vkAllocateMemory)(device, info, callbacks, memory);
    int slot = 0;
    while (slot < 64 && imports[slot].pages) ++slot;
    if (slot == 64 || !dedicated || !dedicated->buffer || getenv("DMA_BUF_DRIVER_REFUSES"))
        return VK_ERROR_INVALID_EXTERNAL_HANDLE;  // and the descriptor stays the application's
    void* pages = mapped(import->fd, info->allocationSize);
    if (pages == MAP_FAILED) return VK_ERROR_INVALID_EXTERNAL_HANDLE;
    VkImportMemoryHostPointerInfoEXT host = {VK_STRUCTURE_TYPE_IMPORT_MEMORY_HOST_POINTER_INFO_EXT, NULL,
                                             VK_EXTERNAL_MEMORY_HANDLE_TYPE_HOST_ALLOCATION_BIT_EXT, pages};
    VkMemoryAllocateInfo mine = {info->sType, &host, info->allocationSize, info->memoryTypeIndex};
    VkResult result = REAL(vkAllocateMemory)(device, &mine, callbacks, memory);
    if (result != VK_SUCCESS) {
        munmap(pages, info->allocationSize);
        return result;
    }
    close(import->fd);  // it is the driver's now
    imports[slot].memory = *memory;
    imports[slot].pages = pages;
    imports[slot].bytes = info->allocationSize;
    return result;
}

EXPORTED void vkFreeMemory(VkDevice device, VkDeviceMemory memory, const VkAllocationCallbacks* callbacks) {
    REAL(vkFreeMemory)(device, memory, callbacks);
    for (int slot = 0; slot < 64; ++slot)
        if (imports[slot].pages && imports[slot].memory == memory) {
            munmap(imports[slot].pages, imports[slot].bytes);
            imports[slot].pages = NULL;
        }
}
