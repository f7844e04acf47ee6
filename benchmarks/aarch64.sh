#!/usr/bin/env bash
# Checks the kernels for aarch64 on another machine: builds test/native_driver.cpp for it and runs it
# in an emulator, which says whether results are right and nothing about speed.
# Needs g++-aarch64-linux-gnu and qemu-user (Debian's and Ubuntu's names).
set -euo pipefail
cd "$(dirname "$0")/.."
native=sparse_split_ros/native
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

flags=(-std=c++17 -O3 -fno-predictive-commoning -fno-schedule-insns -ffp-contract=fast -Wall -Wextra
  "-I$native")
for source in "$native"/kernels/*.cpp $(grep -L pybind11 "$native"/*.cpp) test/native_driver.cpp
do
  own=()
  if [[ $source == */int8_dotprod.cpp ]]; then own=(-march=armv8.2-a+dotprod); fi
  aarch64-linux-gnu-g++ "${flags[@]}" "${own[@]}" -c "$source" -o "$work/$(basename "$source").o"
done
aarch64-linux-gnu-g++ -static -pthread "$work"/*.o -o "$work/driver"
for cpu in max cortex-a72; do  # with and without dot products
  echo "$cpu: $(qemu-aarch64 -cpu "$cpu" "$work/driver")"
done
