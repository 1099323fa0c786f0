#include "stress.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(stress_spsc) {
    const std::vector<StageSpec> one = {{"main"}}, chain = {{"rectify", 0, true}, {"infer", 1}, {"draw", 2}};
    return storms({
        {"spsc, one slot, sleeping", Pattern::spsc, 1, 1, one, 1, Mode::block, 8, 5},
        {"spsc, three slots, adaptive", Pattern::spsc, 1, 1, one, 3, Mode::adaptive, 8, 30},
        {"spsc, 64 slots, adaptive", Pattern::spsc, 1, 1, one, 64, Mode::adaptive},
        {"spsc, 64 slots, spinning", Pattern::spsc, 1, 1, one, 64, Mode::spin},
        {"spsc, pages, sleeping", Pattern::spsc, 1, 1, one, 16, Mode::block, 512, 10},
        {"spsc, a chain that changes and reads, sleeping", Pattern::spsc, 1, 1, chain, 16, Mode::block, 8, 30},
        {"spsc, a chain that changes and reads, adaptive", Pattern::spsc, 1, 1, chain, 64, Mode::adaptive, 8, 30},
    });
}
