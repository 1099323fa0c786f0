// The channels that links are tried on: what types they have, and short ways to open their ends.
#pragma once

#include <memory>

#include <psyne/net/message_shape.hpp>
#include <psyne/opening.hpp>
#include <psyne/variant.hpp>

#include "fuzzer.hpp"

namespace fuzz {

/// Bytes that operator new has given out, and the most since memory_peak() was last set to it.
uint64_t memory_live();
uint64_t& memory_peak();

inline constexpr uint64_t kShaped = psyne::VariantHdr{1, 11, 2, psyne::VariantHdr::kShaped}.word();

inline std::vector<std::vector<psyne::net::MessageShape>> shapes_of_channels() {
    return {
        {{.bytes = 24}},                                                           // small records
        {{.bytes = 8}, {.variant = kShaped, .bytes = 512, .shaped = true, .ndim = 2, .element = 4}},  // several types
        {{.bytes = 24, .columns = {{0, 20}, {20, 4}}}},                            // columns
        {{.bytes = 5000}},                                                         // read in place
    };
}

struct Channel {
    std::vector<psyne::net::MessageShape> shapes;
    bool checksum;
    uint64_t capacity;
    std::unique_ptr<psyne::Sender> tx;
    std::unique_ptr<psyne::Receiver> rx;

    Channel(std::vector<psyne::net::MessageShape> types, bool sum)
        : shapes(std::move(types)), checksum(sum), capacity(shapes[0].bytes > 4096 ? 4 : 16) {
        for (const auto& s : shapes) bytes_ = std::max(bytes_, psyne::round_up(s.most(), 8));
        spec_ = {"fuzz", bytes_, psyne::Pattern::mpmc, {{"main"}}};
        fd_ = psyne::make_anonymous(spec_);
        names_ = std::make_shared<const psyne::Anonymous>(fd_);
        rx = psyne::open_receiver(names_, "1", "", psyne::Spinner::Mode::block, "fuzz");
        open_sender();
    }

    void open_sender() {
        const psyne::SideColumns columns{.dropped = true, .variants = shapes.size() > 1, .remote = true};
        tx = psyne::open_sender(names_, "1", spec_, {psyne::payload_stride(bytes_, 8, 0), capacity, columns, psyne::Spinner::Mode::block}, "fuzz");
    }
    void close_sender(bool failed = false) {
        tx->close(failed);
        psyne::leave(tx->registry);
        tx.reset();
        rx->look_after_others();
        rx->registry.reap();
    }

private:
    uint64_t bytes_ = 0;
    psyne::ChannelSpec spec_;
    psyne::sys::Fd fd_;
    psyne::NamesPtr names_;
};

/// Cuts between the reads of a connection: all at once, or as the second byte of the input says.
class Cuts {
public:
    explicit Cuts(std::byte seed) : random_(std::to_integer<uint64_t>(seed)), all_(seed == std::byte{0}), most_(1ull << (std::to_integer<uint64_t>(seed) % 13)) {}
    size_t next(size_t there) noexcept { return all_ || ++cuts_ > kMost ? there : std::min<size_t>(there, 1 + random_.below(most_)); }
    uint64_t below(uint64_t n) noexcept { return random_.below(n); }
    bool one_in(uint64_t n) noexcept { return random_.one_in(n); }

private:
    Random random_;
    static constexpr uint64_t kMost = 48;
    bool all_;
    uint64_t most_, cuts_ = 0;
};

}  // namespace fuzz
