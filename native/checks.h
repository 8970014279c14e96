// What bindings say when arguments are not what they have to be.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>
#include <vector>

namespace nb = nanobind;

namespace octuor {
namespace {

template <class T, int N>
using Input = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
template <class T, int N>
using Output = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using AnyInput = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using AnyOutput = nb::ndarray<nb::c_contig, nb::device::cpu>;

[[noreturn]] void fail(const char* error, const std::string& message) {
    nb::object type = nb::module_::import_("octuor.errors").attr(error);
    PyErr_SetString(type.ptr(), message.c_str());
    throw nb::python_error();
}

std::string text(const std::vector<int64_t>& shape) {
    std::string s = "[";
    for (size_t i = 0; i < shape.size(); i++) s += (i ? ", " : "") + std::to_string(shape[i]);
    return s + "]";
}

template <class Array>
std::vector<int64_t> shape_of(const Array& array) {
    std::vector<int64_t> shape;
    for (size_t i = 0; i < array.ndim(); i++) shape.push_back(int64_t(array.shape(i)));
    return shape;
}

template <class Array>
void expect_shape(const char* what, const Array& array, std::initializer_list<int64_t> expected) {
    bool same = array.ndim() == expected.size();
    size_t i = 0;
    for (int64_t n : expected) same = same && int64_t(array.shape(i++)) == n;
    if (!same)
        fail("ShapeError", std::string(what) + ": expected " + text(expected) + ", found " + text(shape_of(array)));
}

void expect_range(const char* what, const int32_t* values, int64_t n, int64_t end) {
    for (int64_t i = 0; i < n; i++)
        if (values[i] < 0 || values[i] >= end)
            fail("RequestError", std::string(what) + ": expected numbers in 0.." + std::to_string(end - 1) +
                                     ", found " + std::to_string(values[i]) + " at place " + std::to_string(i));
}

}  // namespace
}  // namespace octuor
