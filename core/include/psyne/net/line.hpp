// First in, first out: elements with numbers, in memory that only grows.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace psyne::net {

template <class T>
class Line {
public:
    uint64_t first = 0, last = 0;  // the numbers of those that are in it: first … last − 1

    bool empty() const noexcept { return first == last; }
    T& operator[](uint64_t number) noexcept { return places_[number & (places_.size() - 1)]; }
    T& front() noexcept { return (*this)[first]; }
    void push(const T& v) {
        if (last - first == places_.size()) {
            std::vector<T> more(2 * places_.size());
            for (uint64_t i = first; i != last; ++i) more[i & (more.size() - 1)] = (*this)[i];
            places_ = std::move(more);
        }
        (*this)[last] = v;
        ++last;
    }

private:
    std::vector<T> places_ = std::vector<T>(64);  // a power of two
};

}  // namespace psyne::net
