// All that differs between systems, behind one set of names (psyne::sys).
#pragma once

#if defined(__linux__)
#include <psyne/system/linux.hpp>
#elif defined(__APPLE__)
#include <psyne/system/darwin.hpp>
#else
#error "psyne: no system header for this platform; write psyne/system/<name>.hpp"
#endif
