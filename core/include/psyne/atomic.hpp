// The one place where atomics, fences and pauses are spelled.
#pragma once

#include <atomic>
#include <cstdint>

#include <psyne/system/system.hpp>

namespace psyne {

using Atomic64 = std::atomic<uint64_t>;
using Atomic32 = std::atomic<uint32_t>;

// Shared between processes at different addresses: only lock-free atomics are address-free.
static_assert(Atomic64::is_always_lock_free && sizeof(Atomic64) == 8);
static_assert(Atomic32::is_always_lock_free && sizeof(Atomic32) == 4);

inline constexpr auto relaxed = std::memory_order_relaxed;
inline constexpr auto acquire = std::memory_order_acquire;
inline constexpr auto release = std::memory_order_release;
inline constexpr auto acq_rel = std::memory_order_acq_rel;
inline constexpr auto seq_cst = std::memory_order_seq_cst;

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#else
inline constexpr bool kThreadSanitizer = false;
#endif

/// A full fence. ThreadSanitizer does not know fences, so there it is a read-modify-write.
inline void full_fence() noexcept {
    if constexpr (kThreadSanitizer) {
        static Atomic64 dummy{0};
        dummy.fetch_add(1, seq_cst);
    } else {
#if !defined(__SANITIZE_THREAD__)
        std::atomic_thread_fence(seq_cst);
#endif
    }
}

/// What was read before it is read before what comes after it.
inline void acquire_fence() noexcept {
    if constexpr (kThreadSanitizer) {
        full_fence();
    } else {
#if !defined(__SANITIZE_THREAD__)
        std::atomic_thread_fence(acquire);
#endif
    }
}

/// Keeps the compiler from moving a load above a store; the sleeper's barrier does the rest.
inline void compiler_fence() noexcept { std::atomic_signal_fence(seq_cst); }

inline void cpu_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb" ::: "memory");
#endif
}

}  // namespace psyne
