// What a message costs in a ring that may grow, beside one that may not: sent and received in turn, so never full.
//
//   growth DIRECTORY fixed|grows|extents MESSAGES
//
// One thread has both ends of a channel in DIRECTORY. `extents`: messages might be longer than their slots, but are not.
// Each message is compared. Prints nanoseconds per message; run under callgrind, instructions are counted.
#include <psyne/opening.hpp>

#include <cstring>

using namespace psyne;

namespace {

constexpr uint64_t kBytes = 64, kCapacity = 4096;  // the default for such messages

SenderOptions options_for(const std::string& kind) {
    SenderOptions o{payload_stride(kBytes, 8, 0), kCapacity, {}, Spinner::Mode::spin, {}};
    if (kind == "fixed") return o;
    o.growth = {1 << 30, 1'000'000'000};
    o.room = kBytes;
    o.alignment = 8;
    o.columns.extents = kind == "extents";
    return o;
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 4) {
        std::fprintf(stderr, "usage: growth DIRECTORY fixed|grows|extents MESSAGES\n");
        return 2;
    }
    const std::string kind = arguments[2];
    const uint64_t messages = std::strtoull(arguments[3], nullptr, 10);
    const auto directory = std::make_shared<const Directory>(arguments[1]);
    const uint64_t most = kind == "extents" ? 1 << 20 : kBytes;
    auto tx = open_sender(directory, kind, {"u8", most, Pattern::spsc, {{"main"}}}, options_for(kind), "growth");
    auto rx = open_receiver(directory, kind, {"main"}, Spinner::Mode::spin, "growth");

    const uint64_t began = sys::now_ns();
    for (uint64_t n = 0; n < messages; ++n) {
        Loan loan;
        Taken taken;
        if (!tx->try_loan(1, loan, kBytes)) return std::fprintf(stderr, "the ring is full\n"), 1;
        std::memcpy(loan.data, &n, sizeof n);
        tx->commit(loan, 1);
        if (!rx->try_take(1, taken)) return std::fprintf(stderr, "no message is there\n"), 1;
        uint64_t seen;
        std::memcpy(&seen, taken.data, sizeof seen);
        if (seen != n) return std::fprintf(stderr, "saw %lu, expected %lu\n", seen, n), 1;
        rx->end(taken, false);
    }
    const double ns = static_cast<double>(sys::now_ns() - began) / static_cast<double>(messages);
    if (tx->growth().grown != 0) return std::fprintf(stderr, "the ring has grown\n"), 1;

    rx->close(), leave(rx->registry);
    tx->close(false), leave(tx->registry);
    std::printf("{\"ns\": %.2f}\n", ns);
    return 0;
}
