// Copyright 2026 The sparse_split_ros authors
// SPDX-License-Identifier: Apache-2.0
//
// What Python sees: the program that plan.py writes, and the session that engine.py runs.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <memory>
#include <optional>
#include <vector>

#include "bindings.hpp"
#include "session.hpp"

namespace py = pybind11;

namespace sparse_split {

namespace {

template <typename T>
using Values = py::array_t<T, py::array::c_style>;
using Floats = Values<float>;
using Integers = Values<std::int32_t>;

template <typename T>
Array<T> borrowed(const std::optional<Values<T>>& values) {
  if (!values) return {};
  Array<T> array{values->data(), {}};
  for (py::ssize_t axis = 0; axis < values->ndim(); ++axis) {
    array.shape.push_back(static_cast<int>(values->shape(axis)));
  }
  return array;
}

Pattern pattern_of(const std::optional<Integers>& blocks, const std::optional<Integers>& columns,
                   int width) {
  return {borrowed(blocks), borrowed(columns), width};
}

Floats like(const Session& session, int tensor, int rows, bool vector) {
  const auto [channels, height, width] = session.program().shape(tensor);
  if (vector && height * width != 1) throw PlanError("an answer that is no vector");
  return vector ? Floats({rows, channels}) : Floats({rows, channels, height, width});
}

const float* rows_of(const Session& session, int tensor, const Floats& x) {
  const auto [channels, height, width] = session.program().shape(tensor);
  if (x.ndim() != 4 || x.shape(0) < 1 || x.shape(1) != channels || x.shape(2) != height ||
      x.shape(3) != width) {
    throw PlanError("the input does not have the shape that the program was planned for");
  }
  return x.data();
}

double threshold_of(py::handle given, std::size_t stage) {
  const double threshold = PyFloat_AsDouble(given.ptr());
  if (threshold == -1 && PyErr_Occurred() != nullptr) {
    const py::error_already_set error;
    if (!error.matches(PyExc_Exception)) throw error;
    const auto found = py::reinterpret_steal<py::str>(PyUnicode_FromFormat("%.60R", given.ptr()));
    if (!found) throw py::error_already_set();
    throw PlanError("stage " + std::to_string(stage) + ": the threshold " + std::string(found) +
                    ": " + std::string(py::str(error.value())));
  }
  // Not-a-number is one that no confidence reaches.
  return std::isnan(threshold) ? HUGE_VAL : threshold;
}

// What is asked of each stage, of how many there must be: None, or a threshold.
std::vector<Asked> asked_of(const Session& session, const py::object& thresholds) {
  std::vector<Asked> asked(session.stages().size());
  const auto items = py::reinterpret_steal<py::object>(
      PySequence_Fast(thresholds.ptr(), "thresholds must be a sequence"));
  if (!items) throw py::error_already_set();
  const auto count = static_cast<std::size_t>(PySequence_Fast_GET_SIZE(items.ptr()));
  if (count != asked.size()) {
    throw PlanError(std::to_string(count) + " thresholds for " + std::to_string(asked.size()) +
                    " stages");
  }
  for (std::size_t k = 0; k < count; ++k) {
    const py::handle threshold = PySequence_Fast_GET_ITEM(items.ptr(), k);
    if (threshold.is_none() || session.stages()[k].exit < 0) continue;
    asked[k].exit = true;
    asked[k].threshold = threshold_of(threshold, k);
  }
  return asked;
}

// (features or None, {stage: probabilities}, {stage: logits}, {stage: ms}, stopped, {exit: ms})
py::tuple run(Session& session, const Floats& x, int first, int last,
              const py::object& thresholds, bool stop) {
  const std::vector<Stage>& stages = session.stages();
  if (first < 0 || first > last || last >= static_cast<int>(stages.size()) ||
      stages[first].model < 0 || stages[last].model < 0) {
    throw PlanError("stages " + std::to_string(first) + " to " + std::to_string(last) + " of " +
                    std::to_string(stages.size()));
  }
  const Program& program = session.program();
  std::vector<Asked> asked = asked_of(session, thresholds);
  Request request;
  request.x = rows_of(session, program.model(stages[first].model).input, x);
  request.rows = static_cast<int>(x.shape(0));
  request.first = first, request.last = last;
  request.stop = stop;
  request.stages = asked.data();
  py::dict logits, probabilities, stage_ms, exit_ms;
  for (int k = first; k <= last; ++k) {
    if (!asked[k].exit) continue;
    const int answer = program.model(stages[k].exit).output;
    Floats of_logits = like(session, answer, request.rows, true);
    Floats of_probabilities = like(session, answer, request.rows, true);
    asked[k].logits = of_logits.mutable_data();
    asked[k].probabilities = of_probabilities.mutable_data();
    const py::int_ key(k);
    logits[key] = std::move(of_logits);
    probabilities[key] = std::move(of_probabilities);
  }
  Floats features = like(session, program.model(stages[last].model).output, request.rows, false);
  request.features = features.mutable_data();
  {
    const py::gil_scoped_release release;
    session.run(request);
  }
  for (int k = first; k <= last; ++k) {
    const py::int_ key(k);
    if (request.stopped >= 0 && k > request.stopped) {
      if (asked[k].exit) PyDict_DelItem(logits.ptr(), key.ptr());
      if (asked[k].exit) PyDict_DelItem(probabilities.ptr(), key.ptr());
      continue;
    }
    stage_ms[key] = asked[k].stage_ms;
    if (asked[k].exit) exit_ms[key] = asked[k].exit_ms;
  }
  const py::object none = py::none();
  const bool stopped = request.stopped >= 0;
  return py::make_tuple(stopped ? none : features, probabilities, logits, stage_ms,
                        stopped ? py::int_(request.stopped) : none, exit_ms);
}

Floats run_model(Session& session, int number, const Floats& x, bool vector) {
  const Model& model = session.program().model(number);
  const float* values = rows_of(session, model.input, x);
  const int rows = static_cast<int>(x.shape(0));
  Floats y = like(session, model.output, rows, vector);
  float* answers = y.mutable_data();
  const py::gil_scoped_release release;
  session.run_model(number, values, rows, answers);
  return y;
}

Clamp clamp_of(float low, float high) {
  if (!(low <= high)) throw PlanError("a clamp from " + std::to_string(low));
  return {low, high};
}

Function function_of(const std::string& name) {
  if (name == "clamp") return Function::kClamp;
  if (name == "hard_sigmoid") return Function::kHardSigmoid;
  if (name == "hard_swish") return Function::kHardSwish;
  if (name == "sigmoid") return Function::kSigmoid;
  throw NoKernel("no function " + name);
}

void bind_program(py::module_& module) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  py::class_<Program, std::shared_ptr<Program>>(module, "Program")
      .def(py::init([](const std::string& isa) {
             const Kernels* kernels = isa.empty() ? &best() : find(isa.c_str());
             if (kernels == nullptr) throw NoKernel("this machine has no kernels " + isa);
             return std::make_shared<Program>(*kernels);
           }),
           py::arg("isa") = "")
      .def("tensor", &Program::tensor, py::arg("channels"), py::arg("height"), py::arg("width"),
           py::arg("planar") = false)
      .def("negative", &Program::negative, py::arg("tensor"))
      .def("set_negative", &Program::set_negative, py::arg("tensor"), py::arg("negative"))
      .def("begin", &Program::begin, py::arg("name"), py::arg("x"))
      .def("end", &Program::end, py::arg("y"))
      .def("abandon", &Program::abandon)
      .def(
          "conv",
          [](Program& program, int x, const Floats& weight, const std::optional<Floats>& bias,
             const std::optional<Integers>& blocks, int width, Pair kernel, Pair stride,
             Pair padding, Pair dilation, int groups, int residual, float low, float high) {
            return program.conv(x, borrowed<float>(weight), borrowed(bias),
                                pattern_of(blocks, {}, width), {kernel, stride, padding, dilation},
                                groups, residual, clamp_of(low, high));
          },
          py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
          py::arg("blocks") = py::none(), py::arg("width") = 0, py::kw_only(), py::arg("kernel"),
          py::arg("stride") = Pair{1, 1}, py::arg("padding") = Pair{0, 0},
          py::arg("dilation") = Pair{1, 1}, py::arg("groups") = 1, py::arg("residual") = -1,
          py::arg("low") = -kInfinity, py::arg("high") = kInfinity)
      .def(
          "conv_int8",
          [](Program& program, int x, const Floats& weight, const std::optional<Floats>& bias,
             const std::optional<Integers>& blocks, int width, Pair kernel, Pair stride,
             Pair padding, Pair dilation, int residual, float low, float high, float range,
             bool codes) {
            return program.conv_int8(x, borrowed<float>(weight), borrowed(bias),
                                     pattern_of(blocks, {}, width),
                                     {kernel, stride, padding, dilation}, residual,
                                     clamp_of(low, high), range, codes);
          },
          py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
          py::arg("blocks") = py::none(), py::arg("width") = 0, py::kw_only(), py::arg("kernel"),
          py::arg("stride") = Pair{1, 1}, py::arg("padding") = Pair{0, 0},
          py::arg("dilation") = Pair{1, 1}, py::arg("residual") = -1, py::arg("low") = -kInfinity,
          py::arg("high") = kInfinity, py::arg("reach"), py::arg("codes"))
      .def(
          "linear",
          [](Program& program, int x, const Floats& weight, const std::optional<Floats>& bias,
             const std::optional<Integers>& blocks, int width,
             const std::optional<Integers>& columns, float low, float high) {
            return program.linear(x, borrowed<float>(weight), borrowed(bias),
                                  pattern_of(blocks, columns, width), clamp_of(low, high));
          },
          py::arg("x"), py::arg("weight"), py::arg("bias") = py::none(),
          py::arg("blocks") = py::none(), py::arg("width") = 0, py::arg("columns") = py::none(),
          py::kw_only(), py::arg("low") = -kInfinity, py::arg("high") = kInfinity)
      .def(
          "pool",
          [](Program& program, int x, bool average, Pair kernel, Pair stride, Pair padding,
             bool ceil_mode, bool count_include_pad) {
            return program.pool(x, average ? Pooling::kAverage : Pooling::kMax,
                                {kernel, stride, padding, {1, 1}}, ceil_mode, count_include_pad);
          },
          py::arg("x"), py::arg("average"), py::kw_only(), py::arg("kernel"), py::arg("stride"),
          py::arg("padding"), py::arg("ceil_mode") = false, py::arg("count_include_pad") = true)
      .def("global_average", &Program::global_average, py::arg("x"))
      .def(
          "unary",
          [](Program& program, int x, const std::string& function, float alpha, float beta) {
            return program.unary(x, function_of(function), alpha, beta);
          },
          py::arg("x"), py::arg("function"), py::arg("alpha") = 0.0f, py::arg("beta") = 0.0f)
      .def(
          "binary",
          [](Program& program, int left, int right, bool multiply, float value, float low,
             float high) {
            return program.binary(left, right, multiply ? Operator::kMultiply : Operator::kAdd,
                                  value, clamp_of(low, high));
          },
          py::arg("left"), py::arg("right"), py::arg("multiply"), py::arg("value") = 0.0f,
          py::kw_only(), py::arg("low") = -kInfinity, py::arg("high") = kInfinity)
      .def("concat", &Program::concat, py::arg("parts"))
      .def("pixel_shuffle", &Program::pixel_shuffle, py::arg("x"), py::arg("factor"))
      .def("flatten", &Program::flatten, py::arg("x"), py::arg("copy"))
      .def("measured", &Program::measured, py::arg("tensor"), py::arg("reach"))
      .def("finish", &Program::finish)
      .def("shape", &Program::shape, py::arg("tensor"))
      .def_property_readonly("isa",
                             [](const Program& program) { return program.kernels().name; })
      .def_property_readonly("weight_bytes", &Program::weight_bytes)
      .def_property_readonly(
          "arena_bytes",
          [](const Program& program) { return program.arena_floats() * sizeof(float); })
      .def(
          "steps",
          [](const Program& program, int number) {
            const Model& model = program.model(number);
            py::list steps;
            for (int i = model.first; i < model.last; ++i) {
              const Step& step = program.steps()[i];
              steps.append(py::make_tuple(step.name, step.macs, step.bytes));
            }
            return steps;
          },
          py::arg("model"));
}

void bind_session(py::module_& module) {
  using Tasks = std::vector<std::tuple<int, float>>;
  py::class_<Session>(module, "Session")
      .def(py::init([](std::shared_ptr<Program> program,
                       const std::vector<std::tuple<int, int, Tasks>>& stages, int threads) {
             std::vector<Stage> made;
             for (const auto& [model, exit, tasks] : stages) {
               made.push_back({model, exit, {}});
               for (const auto& [classes, temperature] : tasks) {
                 made.back().tasks.push_back({classes, temperature});
               }
             }
             return std::make_unique<Session>(std::move(program), std::move(made), threads);
           }),
           py::arg("program"), py::arg("stages"), py::arg("threads"))
      .def("run", &run, py::arg("x").noconvert(), py::arg("first"), py::arg("last"),
           py::arg("thresholds"), py::arg("stop"))
      .def("run_model", &run_model, py::arg("model"), py::arg("x"), py::arg("vector"))
      .def(
          "time_steps",
          [](Session& session, int model, int rounds) {
            const py::gil_scoped_release release;
            return session.time_steps(model, rounds);
          },
          py::arg("model"), py::arg("rounds"));
}

}  // namespace
}  // namespace sparse_split

PYBIND11_MODULE(_native, module) {
  using namespace sparse_split;
#if PYBIND11_VERSION_HEX < 0x020C0000
  // Built so, arrays of NumPy 2 would be read with wrong strides, and answers be wrong in silence.
  const auto numpy = py::module_::import("numpy").attr("__version__").cast<std::string>();
  if (std::stoi(numpy) >= 2) {
    throw py::import_error("built with a pybind11 older than 2.12, which does not know NumPy " +
                           numpy + ": pip install pybind11, and build again");
  }
#endif
  module.doc() = "The kernels, programs and sessions of the native engine.";
  const auto refused = py::register_exception<PlanError>(module, "PlanError", PyExc_ValueError);
  py::register_exception<NoKernel>(module, "NoKernelError", refused.ptr());
  py::register_exception<NotFinite>(module, "NotFiniteError", PyExc_ArithmeticError);
  module.def("fast_int8", [] { return best_int8().fast; });
  bind_kernels(module);
  bind_program(module);
  bind_session(module);
}
