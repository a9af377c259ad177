// What cuda.cpp does for nccl.cpp.
#pragma once
#include <cstdint>
#include <functional>

// Queues work on a stream of a GPU; it is tried again and again until it gives true.
int software_enqueue(uint64_t stream, int device, std::function<bool()> work);
// Does what can be done.
void software_progress();
// The current GPU.
int software_device();
