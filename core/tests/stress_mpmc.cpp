#include "stress.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(stress_mpmc) {
    const std::vector<StageSpec> one = {{"main"}}, chain = {{"change", 0, true}, {"read", 1}};
    return storms({
        {"mpmc, two by two, one slot each, sleeping", Pattern::mpmc, 2, 2, one, 1, Mode::block, 8, 10},
        {"mpmc, two by two, 64 slots, adaptive", Pattern::mpmc, 2, 2, one, 64, Mode::adaptive},
        {"mpmc, three by three, 7 slots, sleeping", Pattern::mpmc, 3, 3, one, 7, Mode::block, 8, 40},
        {"mpmc, two by two and a chain, sleeping", Pattern::mpmc, 2, 2, chain, 16, Mode::block, 8, 30},
        {"mpmc, two by two and a chain, adaptive", Pattern::mpmc, 2, 2, chain, 32, Mode::adaptive, 8, 30},
    });
}
