// The errors of the core. Full and empty are results, not errors.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace psyne {

enum class Errc {
    invalid,       // an argument that can never work: a bad name, n > capacity
    not_found,     // no such channel
    busy,          // the pattern's place is taken, or a table is full
    mismatch,      // another layout, other stages or another pattern
    incompatible,  // a foreign, damaged or differently laid out file
    no_space,      // shared memory is full
    lease,         // own views stand in the way
    protocol,      // the other side of a connection sent what it must not
    system,        // a system call failed
};

struct Error : std::runtime_error {
    Error(Errc kind, const std::string& what) : std::runtime_error(what), code(kind) {}
    Errc code;
};

[[noreturn]] inline void fail(Errc code, const std::string& what) { throw Error(code, what); }

}  // namespace psyne
