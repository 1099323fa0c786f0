// What a link is about to write: pieces of memory in order, headers among them. Nothing is joined, nothing is allocated.
//
//   pieces   │ head │ slots 3 … 7 │ head │ slot 0 │ head │       heads lie in the outbox itself
//                ▲ written up to here, perhaps in the middle of one
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include <psyne/net/wire.hpp>

namespace psyne::net {

class Outbox {
public:
    static constexpr size_t kPieces = 1024;  // as many as a system call takes
    static constexpr size_t kHeads = 32 * 1024;

    /// Room for a frame of so many pieces, and so many bytes that are not in place?
    bool fits(size_t pieces, size_t heads) const noexcept { return kPieces - last_ >= pieces && kHeads - used_ >= heads; }
    size_t pieces_left() const noexcept { return kPieces - last_; }
    bool empty() const noexcept { return first_ == last_; }
    uint64_t bytes() const noexcept { return bytes_; }

    /// The next piece: `n` bytes to be filled in here.
    std::byte* head(size_t n) noexcept {
        std::byte* at = store_->heads + used_;
        used_ += n;
        add(at, n);
        return at;
    }
    /// The next piece: memory that stays as it is until it is written.
    void add(const std::byte* data, uint64_t n) noexcept {
        if (n == 0) return;
        store_->pieces[last_++] = {data, n, 0};
        bytes_ += n;
    }
    /// Once the last piece is written, all messages before `sequence` are.
    void mark(uint64_t sequence) noexcept { store_->pieces[last_ - 1].until = sequence; }

    /// Up to `bytes` bytes of what is to be written.
    size_t gather(iovec* out, size_t most, uint64_t bytes) const noexcept {
        size_t n = 0;
        for (size_t i = first_; i < last_ && n < most && bytes != 0; ++i) {
            const Piece& p = store_->pieces[i];
            const uint64_t k = std::min(p.bytes, bytes);
            out[n++] = {const_cast<std::byte*>(p.data), k};
            bytes -= k;
        }
        return n;
    }
    /// `n` bytes of it are gone. `until` is raised to what was marked there.
    void written(uint64_t n, uint64_t& until) {
        if (n > bytes_) fail(Errc::invalid, "more bytes were written than there were: " + std::to_string(n) + " of " + std::to_string(bytes_));
        bytes_ -= n;
        while (n != 0) {
            Piece& p = store_->pieces[first_];
            const uint64_t k = std::min(p.bytes, n);
            p.data += k, p.bytes -= k, n -= k;
            if (p.bytes != 0) break;
            until = std::max(until, p.until);
            ++first_;
        }
        if (empty()) clear();
    }
    void clear() noexcept { first_ = last_ = used_ = 0, bytes_ = 0; }

private:
    struct Piece {
        const std::byte* data;
        uint64_t bytes, until;
    };
    struct Store {
        Piece pieces[kPieces];
        std::byte heads[kHeads];
    };
    std::unique_ptr<Store> store_ = std::make_unique<Store>();
    size_t first_ = 0, last_ = 0;  // pieces
    size_t used_ = 0;              // bytes of heads
    uint64_t bytes_ = 0;           // to be written
};

}  // namespace psyne::net
