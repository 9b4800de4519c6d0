import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.lang.reflect.Modifier;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.jar.JarFile;
import org.junit.Test;
import org.junit.experimental.categories.Categories.CategoryFilter;
import org.junit.runner.Description;
import org.junit.runner.JUnitCore;
import org.junit.runner.Request;
import org.junit.runner.Result;
import org.junit.runner.manipulation.Filter;
import org.junit.runner.manipulation.NoTestsRemainException;

/**
 * Runs the JUnit tests it is told to, each in a thread of its own.
 *
 * <p>{@code Lane --list JAR CATEGORY} prints {@code class#method} of every test of the jar that carries the category.
 * {@code Lane} reads such a name a line from stdin and answers each with a JSON line on stdout once it has run; a line
 * {@code cancel NAME} interrupts one that takes too long, which is then no longer answered. As many run at once as the
 * reader of the answers has asked for. What a test prints goes to stderr.
 */
public final class Lane {
  private static final PrintStream ANSWERS = System.out;
  private static final ConcurrentHashMap<String, Future<?>> RUNNING = new ConcurrentHashMap<>();

  private Lane() {}

  public static void main(String[] args) throws Exception {
    System.setOut(System.err);
    if (args.length == 3 && args[0].equals("--list")) {
      Class<?> category = Class.forName(args[2]);
      for (Class<?> testClass : testClasses(args[1])) {
        testsOf(testClass, category).forEach(ANSWERS::println);
      }
      System.exit(0);
    }
    ExecutorService threads =
        Executors.newCachedThreadPool(
            task -> {
              Thread thread = new Thread(task);
              thread.setDaemon(true);
              return thread;
            });
    ANSWERS.println("{\"ready\": true}");
    ANSWERS.flush();
    BufferedReader orders = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = orders.readLine(); line != null; line = orders.readLine()) {
      if (line.startsWith("cancel ")) {
        Future<?> late = RUNNING.remove(line.substring("cancel ".length()));
        if (late != null) {
          late.cancel(true);
        }
      } else {
        String name = line;
        RUNNING.put(name, threads.submit(() -> run(name)));
      }
    }
    System.exit(0);
  }

  private static void run(String name) {
    long start = System.currentTimeMillis();
    String verdict = "PASS";
    String why = "";
    try {
      int border = name.indexOf('#');
      Description test = Description.createTestDescription(name.substring(0, border), name.substring(border + 1));
      Request request =
          Request.aClass(Class.forName(name.substring(0, border))).filterWith(Filter.matchMethodDescription(test));
      Result result = new JUnitCore().run(request);
      if (!result.wasSuccessful()) {
        verdict = "FAIL";
        why = trace(result.getFailures().get(0).getException());
      } else if (result.getRunCount() == 0 || result.getAssumptionFailureCount() > 0 || result.getIgnoreCount() > 0) {
        verdict = "SKIP";
      }
    } catch (Throwable broken) {
      verdict = "FAIL";
      why = trace(broken);
    }
    if (!why.isEmpty()) {
      System.err.println("=== " + name + "\n" + why);
    }
    long took = System.currentTimeMillis() - start;
    String answer =
        String.format(
            "{\"name\": \"%s\", \"verdict\": \"%s\", \"ms\": %d, \"why\": \"%s\"}",
            escape(name), verdict, took, escape(why.substring(0, Math.min(2000, why.length()))));
    synchronized (ANSWERS) {
      ANSWERS.println(answer);
      ANSWERS.flush();
    }
    RUNNING.remove(name);
  }

  private static String trace(Throwable error) {
    StringWriter text = new StringWriter();
    error.printStackTrace(new PrintWriter(text));
    return text.toString();
  }

  private static String escape(String text) {
    StringBuilder out = new StringBuilder();
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') {
        out.append('\\').append(c);
      } else if (c < ' ' || c > '~') {
        out.append(String.format("\\u%04x", (int) c));
      } else {
        out.append(c);
      }
    }
    return out.toString();
  }

  private static List<Class<?>> testClasses(String jar) throws Exception {
    TreeSet<String> names = new TreeSet<>();
    try (JarFile file = new JarFile(jar)) {
      file.stream()
          .map(entry -> entry.getName())
          .filter(entry -> entry.endsWith(".class"))
          .forEach(entry -> names.add(entry.substring(0, entry.length() - ".class".length()).replace('/', '.')));
    }
    List<Class<?>> classes = new ArrayList<>();
    for (String name : names) {
      try {
        Class<?> loaded = Class.forName(name);
        if (!Modifier.isAbstract(loaded.getModifiers())
            && Arrays.stream(loaded.getMethods()).anyMatch(method -> method.isAnnotationPresent(Test.class))) {
          classes.add(loaded);
        }
      } catch (Throwable notLoadable) {
        // A class whose optional dependency is absent has no test that could run here.
      }
    }
    return classes;
  }

  private static List<String> testsOf(Class<?> testClass, Class<?> category) {
    List<String> found = new ArrayList<>();
    try {
      org.junit.runner.Runner runner = Request.aClass(testClass).getRunner();
      CategoryFilter.include(category).apply(runner);
      collect(runner.getDescription(), found);
    } catch (NoTestsRemainException none) {
      // No test of this class carries the category.
    }
    return found;
  }

  private static void collect(Description description, List<String> found) {
    if (description.isTest() && description.getMethodName() != null) {
      found.add(description.getClassName() + "#" + description.getMethodName());
    }
    description.getChildren().forEach(child -> collect(child, found));
  }
}
