#include "stress.hpp"

using namespace psyne;
using namespace psyne::test;

TESTS(stress_spmc) {
    const std::vector<StageSpec> one = {{"main"}}, chain = {{"read"}, {"change", 1, true}},
                                 graph = {{"a"}, {"b"}, {"both", 3, true}};
    return storms({
        {"spmc, two members, two slots, sleeping", Pattern::spmc, 1, 2, one, 2, Mode::block, 8, 10},
        {"spmc, two members, 64 slots, adaptive", Pattern::spmc, 1, 2, one, 64, Mode::adaptive},
        {"spmc, four members, 16 slots, sleeping", Pattern::spmc, 1, 4, one, 16, Mode::block, 8, 40},
        {"spmc, a chain of two members each, sleeping", Pattern::spmc, 1, 2, chain, 16, Mode::block, 8, 30},
        {"spmc, a graph of two members each, adaptive", Pattern::spmc, 1, 2, graph, 32, Mode::adaptive, 8, 20},
    });
}
